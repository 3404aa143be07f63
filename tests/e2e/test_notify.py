"""A running service tells people: the alert of a held route, a test, and what happens when the chat is down."""

import contextlib
import json
from pathlib import Path

from harness.chat_service import ChatService
from harness.running_service import a_config, a_receiver, a_sink, a_webhook_route
from harness.waiting import wait_until

CANARY = "T0PATHCANARY0123456789"


def a_notify_route(url: str) -> str:
    return f'[[routes]]\nname = "on-call"\non = ["alert"]\nretry = ["1s"]\n[routes.notify]\nurls = ["{url}"]\n'


async def test_people_are_notified_of_a_held_route_and_no_output_has_the_token(tmp_path: Path) -> None:
    with ChatService() as chat:
        async with a_sink() as sink:
            more = a_webhook_route(sink) + a_notify_route(f"json://{chat.address}/{CANARY}")
            async with a_receiver(tmp_path, a_config("http://127.0.0.1:9", more=more)) as receiver:
                chat.status = 503
                held = await receiver.run_cli_async("routes", "hold", "hook", "--why", "maintenance")
                await wait_until(lambda: len(receiver.log_entries("delivery.attempted")) == 1)
                chat.status = 200
                await wait_until(lambda: len(receiver.log_entries("delivery.attempted")) >= 2)
                tested = await receiver.run_cli_async("routes", "test", "on-call", "--json")
                routes = await receiver.run_cli_async("routes", "list", "--json")
                alerts = await receiver.run_cli_async("alerts", "list", "--json")
                attempts = receiver.rows("SELECT number, outcome, reason FROM attempts ORDER BY number")
                log = receiver.log()

    assert held.returncode == 0
    first = json.loads(chat.bodies[0])
    assert first["title"] == "Route hook is held"
    assert "is held by an operator since " in first["message"]
    assert first["message"].endswith(": maintenance. 0 events wait.")
    assert json.loads(tested.stdout)["outcome"] == "accepted"
    (kind,) = [route["kind"] for route in json.loads(routes.stdout)["items"] if route["name"] == "on-call"]
    assert kind == "notify"
    (alert,) = json.loads(alerts.stdout)["items"]
    assert (alert["type"], alert["subject"], alert["times"]) == ("alert.route_held", "hook", 1)
    assert "503" in attempts[0][2]
    assert CANARY not in f"{log}{attempts}{tested.stdout}{routes.stdout}"


def notification_processes(parent: int) -> set[int]:
    """Return the ids of a process's children that send notifications."""
    found = set()
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            is_child = folder.name.isdecimal() and f"\nPPid:\t{parent}\n" in (folder / "status").read_text()
            if is_child and b"apprise_child" in (folder / "cmdline").read_bytes():
                found.add(int(folder.name))
    return found


def living(processes: set[int]) -> set[int]:
    return {each for each in processes if Path(f"/proc/{each}").exists()}


async def test_a_killed_service_leaves_no_notification_behind(tmp_path: Path) -> None:
    with ChatService(hangs=True) as chat:
        async with a_sink() as sink:
            more = a_webhook_route(sink) + a_notify_route(f"json://{chat.address}/{CANARY}?rto=60")
            async with a_receiver(tmp_path, a_config("http://127.0.0.1:9", more=more)) as receiver:
                await receiver.run_cli_async("routes", "hold", "hook")
                await wait_until(lambda: bool(chat.bodies))
                assert receiver.process is not None
                hanging = notification_processes(receiver.process.pid)

                receiver.kill()
                left = living(hanging)
                await receiver.start()
                await wait_until(lambda: not living(hanging))
                await wait_until(lambda: len(chat.bodies) >= 2)  # the delivery is attempted again

    assert left == hanging != set()
