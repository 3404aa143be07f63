"""One final state, one event, one delivery per destination, even if pushes repeat, come late, or follow a restart."""

import json
from pathlib import Path

from harness.raw_http import http_request
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


async def test_a_repeated_late_success_is_delivered_once(tmp_path: Path) -> None:
    twice = {"share": 1.0, "on": ["succeed"]}
    overtaken = {"share": 1.0, "on": ["processing"]}
    async with a_sink() as sink, a_kling(duplicate=twice, reorder=overtaken) as kling:
        routes = a_webhook_route(sink) + a_script_route(tmp_path)
        async with a_receiver(tmp_path, a_config(kling.url, more=routes)) as receiver:
            async with receiver.client() as client:
                task = await submit_task(client)
                await wait_for_state(client, task["id"], "succeed")
            await wait_until(
                lambda: len(kling.state()["pushes"]) == 3 and kling.state()["counts"]["callbacks_answered"] == 3
            )
            pushes = kling.state()["pushes"]
            assert [push["status"] for push in pushes] == ["succeed", "succeed", "processing"]

            await receiver.restart()
            for push in pushes:
                again = await http_request("POST", push["url"], push["body"].encode())
                assert (again.status, again.body) == (200, b'{"ok":true}')
            delivered = [("hook", "delivered", 1), ("script", "delivered", 1)]
            await wait_until(
                lambda: receiver.rows("SELECT route, status, attempts FROM deliveries ORDER BY route") == delivered
            )
            assert await receiver.stop() == 0

            assert [each["data"]["task"]["id"] for each in map(json.loads, sink.bodies)] == [task["id"]]
            (ran,) = script_output(tmp_path).read_text().splitlines()
            assert ran.encode() == sink.bodies[0]
            assert receiver.rows("SELECT count(*) FROM events WHERE type = 'task.succeed'") == [(1,)]
            kept = receiver.rows("SELECT count(*) FROM pushes WHERE source = 'callback'")
            assert kept == [(6,)]
