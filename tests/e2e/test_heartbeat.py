"""A running service requests its heartbeat URL, and makes no report on its first day."""

from pathlib import Path

from harness.running_service import a_config, a_receiver, a_recording_server
from harness.waiting import wait_until

CANARY = "2a94dee1-0b52-4f0f-9d2e-canary"


async def test_a_service_that_is_ready_sends_a_heartbeat_and_shows_its_url_nowhere(tmp_path: Path) -> None:
    async with a_recording_server() as (monitor, url):
        environ = {"HEARTBEAT_URL": f"{url}/{CANARY}"}
        config = a_config("http://127.0.0.1:9", more='[alerts]\nheartbeat = "env:HEARTBEAT_URL"\n')
        async with a_receiver(tmp_path, config, environ=environ) as receiver:
            await wait_until(lambda: bool(monitor.requests) or bool(receiver.log_entries("heartbeat.stopped")))
            shown = await receiver.run_cli_async("config", "show")
            reports = receiver.rows("SELECT event_id FROM reports")
            events = receiver.rows("SELECT type FROM events")
            log = receiver.log()

    assert [(request.method, request.url.path) for request in monitor.requests] == [("GET", f"/{CANARY}")]
    assert shown.returncode == 0
    assert CANARY not in f"{log}{shown.stdout}{shown.stderr}"
    assert (reports, events) == ([("",)], [])
