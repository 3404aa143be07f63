"""`trigger` and `routes test` through the real command and real destinations."""

import json
from pathlib import Path

from harness.running_service import (
    a_config,
    a_receiver,
    a_script_route,
    a_sink,
    a_webhook_route,
    script_lines,
)
from harness.waiting import wait_until

UNREACHABLE = "http://127.0.0.1:9"
PROJECTION = """payload = { project = "{id: data.task.id, text: data.status}" }"""


async def test_a_test_task_reaches_webhook_and_script_and_the_projection_is_the_body(tmp_path: Path) -> None:
    async with a_sink() as sink:
        routes = a_webhook_route(sink, webhook=PROJECTION) + a_script_route(tmp_path)
        archive = f'[archive]\ndir = "{tmp_path / "results"}"\n'
        async with a_receiver(tmp_path, a_config(UNREACHABLE, more=archive + routes)) as receiver:
            done = await receiver.run_cli_async("trigger", "succeed", "--json")
            task = json.loads(done.stdout)
            await wait_until(lambda: bool(sink.bodies and script_lines(tmp_path)))

            assert json.loads(sink.bodies[0]) == {"id": task["id"], "text": "succeed"}
            event = json.loads(script_lines(tmp_path)[0])
            assert (event["data"]["test"], event["data"]["task"]["id"]) == (True, task["id"])
            explained = await receiver.run_cli_async("explain", task["id"])
            assert (explained.returncode, task["id"] in explained.stdout) == (0, True)


async def test_a_script_under_test_gets_a_folder_with_a_picture(tmp_path: Path) -> None:
    script = tmp_path / "look.sh"
    script.write_text('#!/bin/sh\nhead -c 4 "$KLING_ASSET_DIR"/0.png | tail -c 3\n')
    script.chmod(0o755)
    route = f'[[routes]]\nname = "look"\nscript = {{ command = ["{script}"] }}\n'
    async with a_receiver(tmp_path, a_config(UNREACHABLE, more=route)) as receiver:
        tested = await receiver.run_cli_async("routes", "test", "look", "--json")

        assert json.loads(tested.stdout)["excerpt"].strip() == "PNG", tested.stdout


async def test_the_command_shows_what_a_route_would_do_with_stored_events(tmp_path: Path) -> None:
    async with a_sink() as sink:
        route = a_webhook_route(sink, extra="where = \"task.tags.project == 'ads'\"")
        async with a_receiver(tmp_path, a_config(UNREACHABLE, more=route)) as receiver:
            await receiver.run_cli_async("trigger", "succeed", "--tag", "project=ads")
            await receiver.run_cli_async("trigger", "succeed")

            found = json.loads(
                (await receiver.run_cli_async("routes", "test", "hook", "--last", "20", "--json")).stdout
            )
            table = await receiver.run_cli_async("routes", "test", "hook", "--last", "20")
            [wanted] = [item for item in found["items"] if item["wanted"]]
            one = await receiver.run_cli_async("routes", "test", "hook", "--event", wanted["event_id"])

            assert (found["wanted"], len(found["items"])) == (1, 6)
            assert "gave false, not true" in table.stdout
            assert '"project":"ads"' in one.stdout
