"""A batch of 50 gives one event with all results, through kills."""

import asyncio
import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import httpx2
import pytest
from chaos.parameters import env_int
from harness.running_service import ENDPOINT, JOB, Receiver, a_config, a_kling, a_receiver, a_sink, a_webhook_route
from harness.soak_report import RecordCounts
from harness.waiting import wait_until

SIZE = 50
KILLS = 3
POLL = '[poll]\nafter = "1s"\nevery = "2s"\n'


@pytest.mark.soak("a batch of 50 through kills", minutes=1)
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(1, 1 + env_int("BATCHES", 3)))
async def test_a_batch_of_50_finishes_once_through_kills(
    tmp_path: Path, seed: int, record_counts: RecordCounts
) -> None:
    chance = Random(seed)
    record_counts(seed=seed, tasks=SIZE, kills=KILLS + 1)
    async with a_sink() as sink, a_kling(drop={"share": 0.2}, duplicate={"share": 0.2}, seed=seed) as kling:
        route = a_webhook_route(sink, extra='on = ["batch"]\nretry = ["200ms", "1s"]')
        config = a_config(kling.url, more=POLL + route, kling_more='timeout = "2s"')
        async with a_receiver(tmp_path, config) as receiver:
            submitting = asyncio.gather(*(submit_jobs(receiver, range(start, SIZE, 5)) for start in range(5)))
            for _ in range(KILLS):
                await asyncio.sleep(chance.uniform(0.1, 1.0))
                receiver.kill()
                receiver.spawn()
                if chance.random() < 0.7:
                    await receiver.wait_until_ready()
            ids = {task_id for some in await submitting for task_id in some}
            await receiver.wait_until_ready()
            await wait_until(lambda: bool(sink.bodies), seconds=180)
            first = len(sink.bodies)
            receiver.kill()
            await receiver.start()

            events = [json.loads(body)["data"] for body in sink.bodies]
            record_counts(events_under_an_id_of_their_own=len(sink.received), results=len(events[0]["tasks"]))
            assert len(sink.received) == 1, "one event, under one webhook-id"
            assert len(ids) == SIZE
            assert events[0]["batch"]["counts"] == {"succeed": SIZE}
            assert {task["id"] for task in events[0]["tasks"]} == ids
            assert all(task["result"]["images"] for task in events[0]["tasks"])
            assert {json.dumps(each) for each in events} == {json.dumps(events[0])}
            assert receiver.rows("SELECT count(*) FROM events WHERE type = 'batch.finished'") == [(1,)]
            await wait_until(lambda: receiver.rows("SELECT status FROM deliveries") == [("delivered",)])
            assert len(sink.bodies) <= first + 1
            assert len(kling.state()["tasks"]) == SIZE, "each job was made at Kling once"
            assert await receiver.stop() == 0


async def submit_jobs(receiver: Receiver, numbers: Sequence[int]) -> list[str]:
    """Submit each job until it is accepted. Its idempotency key makes repeats harmless."""
    return [
        await submit_until_accepted(receiver, {"idempotency_key": f"job-{number}", "label": str(number)})
        for number in numbers
    ]


async def submit_until_accepted(receiver: Receiver, job: dict[str, Any]) -> str:
    request = {"endpoint": ENDPOINT, "body": JOB, "batch": {"name": "spring", "size": SIZE}, **job}
    while True:
        with contextlib.suppress(httpx2.HTTPError):
            async with receiver.client() as client:
                answer = await client.post("/api/tasks", json=request)
            assert answer.status_code in (202, 503), answer.text
            if answer.status_code == 202:
                return str(answer.json()["id"])
        await asyncio.sleep(0.1)


async def test_commands_fill_close_and_await_a_batch(tmp_path: Path) -> None:
    async with a_sink() as sink, a_kling() as kling:
        route = a_webhook_route(sink, extra='on = ["batch"]')
        async with a_receiver(tmp_path, a_config(kling.url, more=route)) as receiver:
            job = ["submit", ENDPOINT, "--body", json.dumps(JOB), "--tag", "project=ads", "--batch", "spring"]
            for _ in range(2):
                assert (await receiver.run_cli_async(*job)).returncode == 0
            open_ = await receiver.run_cli_async("batches", "wait", "spring", "--timeout", "1s")
            closed = await receiver.run_cli_async("batches", "close", "spring", "--why", "all in", "--json")
            waited = await receiver.run_cli_async("batches", "wait", "spring")
            refused = await receiver.run_cli_async(*job)
            listed = await receiver.run_cli_async("batches", "list")
            cost = await receiver.run_cli_async("tasks", "cost", "--by", "tag:project")

            assert (open_.returncode, "an open batch is never finished" in open_.stderr) == (1, True)
            assert json.loads(closed.stdout)["state"] in ("closed", "finished")
            assert (waited.returncode, waited.stdout) == (0, "Batch spring is finished: 2 succeed.\n")
            assert (refused.returncode, "Batch spring is closed" in refused.stderr) == (1, True)
            assert listed.stdout.split("\t")[:4] == ["spring", "finished", "2", "2 succeed"]
            assert cost.stdout.splitlines()[0].split("\t")[:2] == ["ads", "2"]
            assert cost.stdout.splitlines()[-1].split("\t")[:2] == ["total", "2"]
            await wait_until(lambda: sink.types == ["batch.finished"])
            assert await receiver.stop() == 0
