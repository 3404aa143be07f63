"""The whole path with real processes: submitted, called back, stored, delivered to a webhook and to a script."""

from pathlib import Path

from harness.running_service import (
    a_config,
    a_kling,
    a_receiver,
    a_script_route,
    a_sink,
    a_webhook_route,
    script_output,
    submit_task,
    wait_for_state,
)
from harness.waiting import wait_until


async def test_a_submitted_job_reaches_webhook_and_script(tmp_path: Path) -> None:
    async with a_sink() as sink, a_kling() as kling:
        routes = a_webhook_route(sink) + a_script_route(tmp_path)
        async with a_receiver(tmp_path, a_config(kling.url, more=routes)) as receiver, receiver.client() as client:
            created = await submit_task(client)

            await wait_until(lambda: len(sink.received) == 1)
            await wait_until(script_output(tmp_path).exists)
            task = await wait_for_state(client, created["id"], "succeed")
            assert task["result"]["images"]
            assert await receiver.stop() == 0
