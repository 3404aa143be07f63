"""The simulator is controlled by its own endpoints and by its command line."""

import asyncio
import base64
import json
import re
import signal
import sys
from contextlib import AsyncExitStack
from random import Random

import pytest
from harness.clock import FakeClock
from harness.http_client import plain_http
from harness.simulator_caller import IMAGES, CallbackReceiver, Json, Start
from harness.waiting import wait_until

from receiver.kling.simulator import Options, serve


class TestControl:
    async def test_current_faults_are_listed_and_end_on_request(self, start: Start) -> None:
        caller = await start()

        await caller.set_faults(drop={"next": 2}, refuse=[1303], processing_for="1m")
        shown = (await caller.client.get("/_simulator/faults")).json()
        await caller.client.post("/v1/videos/text2video", json={"prompt": "a cat"})
        ended = (await caller.client.delete("/_simulator/faults")).json()

        pace = {"submitted_for": 0.0, "processing_for": 60.0, "slow_for": 30.0}
        assert shown == pace | {"drop": {"next": 2}, "refuse": [{"code": 1303, "next": 1}]}
        assert ended == pace

    @pytest.mark.parametrize(
        "given",
        [{"dorp": 1}, {"drop": 2}, {"drop": {"next": -1}}, {"drop": {"nxt": 1}}, {"refuse": [{}]}, {"late_by": "x"}],
    )
    async def test_an_invalid_fault_is_refused_and_changes_nothing(self, start: Start, given: Json) -> None:
        caller = await start()

        answer = await caller.client.post("/_simulator/faults", json={"duplicate": 1} | given)

        assert answer.status_code == 400
        assert "duplicate" not in (await caller.client.get("/_simulator/faults")).json()

    async def test_state_lists_what_was_received_and_sent(
        self, start: Start, callback_receiver: CallbackReceiver
    ) -> None:
        caller = await start()
        image = base64.b64encode(b"\xff\xd8\xff" + bytes(9000)).decode()
        body = {"subject_image_list": [{"subject_image": image}], "callback_url": callback_receiver.url}

        created = await caller.create(**body)
        await caller.wait_until_announced()
        await caller.query(IMAGES, created["task_id"])
        state = await caller.state()

        assert state["counts"]["created"] == state["counts"]["queries"] == 1
        assert state["creates"][0]["status"] == 200
        assert len(json.dumps(state["creates"][0]["body"])) < 1000
        assert [(push["status"], push["answer"]) for push in state["pushes"]] == [("processing", 200), ("succeed", 200)]
        assert state["pushes"][-1]["body"].encode() == callback_receiver.received[-1][1]

    async def test_the_oldest_tasks_beyond_the_limit_are_forgotten(self, start: Start) -> None:
        caller = await start(keep=5)
        made = [(await caller.create(external_task_id=f"own-{n}"))["task_id"] for n in range(8)]

        state = await caller.state()

        assert [task["id"] for task in state["tasks"]] == made[3:]
        assert len(state["creates"]) == 5
        assert (await caller.client.get(f"{IMAGES}/{made[0]}")).status_code == 404
        assert await caller.create(external_task_id="own-0")

    async def test_ids_are_unique_and_only_some_are_numeric(self, start: Start) -> None:
        caller = await start()

        made = [(await caller.create("/v1/videos/text2video", prompt="a cat"))["task_id"] for _ in range(40)]

        assert len(set(made)) == 40
        assert 0 < sum(task_id.isdigit() for task_id in made) < 40
        assert all(re.fullmatch(r"\d{18}|[\w-]{22}", task_id) for task_id in made)

    async def test_a_stop_ends_delayed_answers(self) -> None:
        options = Options.parse({"late": True, "late_by": "1h"})
        async with AsyncExitStack() as stack:
            simulator = await stack.enter_async_context(serve(options, clock=FakeClock(), rng=Random(1)))
            client = await stack.enter_async_context(plain_http())
            headers = {"authorization": "Bearer key"}
            url = f"{simulator.url}/v1/videos/text2video"
            creating = asyncio.create_task(client.post(url, json={"prompt": "a cat"}, headers=headers))
            await wait_until(lambda: simulator.counts["created"] == 1)

            simulator.stop()

            assert (await creating).status_code == 200

    async def test_a_simulator_with_an_internal_error_stops_and_reports_it(self) -> None:
        def watch(event: str, /, **_: object) -> None:
            if event == "task.changed":
                raise RuntimeError("broken")

        async def broken() -> None:
            async with serve(Options.parse({"submitted_for": 0}), observer=watch) as simulator:
                body, headers = {"prompt": "a cat"}, {"authorization": "Bearer key"}
                async with plain_http(base_url=simulator.url) as client:
                    await client.post("/v1/videos/text2video", json=body, headers=headers)
                await asyncio.wait_for(simulator.stopping.wait(), 10)

        with pytest.raises(RuntimeError, match="broken"):
            await broken()

    @pytest.mark.parametrize(
        "given",
        [
            {"dialect": "klingon"},
            {"access_key": "ak"},
            {"dropp": 1},
            {"processing_for": "soon"},
            {"keep": 0},
            {"endpoints": "x"},
        ],
    )
    async def test_invalid_options_are_refused_before_the_port_is_bound(self, given: Json) -> None:
        with pytest.raises(ValueError, match=r"."):
            Options.parse(given)

    async def test_the_command_serves_until_a_stop_signal(self) -> None:
        code = "from receiver.kling.simulator import run; run('127.0.0.1:0', drop='10%', refuse='1303:2,502')"
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
        assert process.stdout is not None
        try:
            line = (await process.stdout.readline()).decode()
            found = re.search(r"http://127\.0\.0\.1:\d+", line)
            assert found, line
            async with plain_http(base_url=found[0]) as client:
                faults = (await client.get("/_simulator/faults")).json()
            process.send_signal(signal.SIGTERM)

            assert await asyncio.wait_for(process.wait(), 10) == 0
            assert faults["drop"] == {"share": 0.1}
            assert [denial["code"] for denial in faults["refuse"]] == [1303, 502]
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
