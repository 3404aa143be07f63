"""The process is killed at random moments while jobs are submitted and Kling answers late, wrongly or never.

Kling creates each accepted job once, for every kind of answer to the client. It creates no job that a gateway's client
was told to send again.
"""

import asyncio
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import httpx2
import pytest
from chaos.parameters import env_int, fresh_seed
from harness.running_service import ENDPOINT, JOB, Receiver, a_config, a_kling, a_receiver
from harness.soak_report import RecordCounts
from harness.waiting import wait_until

from receiver.kling.simulator import Simulator

CRASHES = env_int("CRASHES", 6)
CONFIG = '[poll]\nafter = "200ms"\nevery = "1s"\n'
OPEN = "SELECT count(*) FROM tasks WHERE state IN ('queued', 'submitting', 'submitted', 'processing')"
FAULTS: dict[str, object] = {
    "late": 0.5,
    "late_by": "300ms",
    "hang_up": 0.1,
    "lose": 0.1,
    "drop": 0.3,
    "refuse": [
        {"code": 5000, "share": 0.05, "created": True},
        {"code": 5002, "share": 0.05},
        {"code": 1302, "share": 0.1},
    ],
}


async def submit_job(client: httpx2.AsyncClient, key: str) -> None:
    """Submit a job as a careful client does: repeat it until it is accepted."""
    job = {"endpoint": ENDPOINT, "body": JOB, "idempotency_key": key}
    try:
        await client.post("/api/tasks", json=job)
    except httpx2.TransportError:
        return


async def create_by_gateway(client: httpx2.AsyncClient) -> None:
    """Create a job through the gateway, without a second try."""
    try:
        await client.post(f"/kling/v1/{ENDPOINT}", json=JOB)
    except httpx2.TransportError:
        return


async def kill_while_submitting(receiver: Receiver, rng: Random, keys: list[str]) -> None:
    """Submit jobs by both ways, and kill the process meanwhile."""
    async with receiver.client() as client:
        calls = [asyncio.create_task(submit_job(client, key)) for key in keys]
        calls += [asyncio.create_task(create_by_gateway(client)) for _ in range(2)]
        await asyncio.sleep(rng.uniform(0, 0.6))
        receiver.kill()
        await asyncio.gather(*calls)


def created_counts(kling: Simulator) -> Counter[str]:
    tasks: list[dict[str, Any]] = kling.state()["tasks"]
    return Counter(task["external_task_id"] for task in tasks)


@pytest.mark.soak("killed while jobs are submitted", minutes=10)
@pytest.mark.timeout(120 + 40 * CRASHES)
async def test_each_job_is_created_once_through_kills(tmp_path: Path, record_counts: RecordCounts) -> None:
    seed = fresh_seed()
    rng = Random(seed)
    record_counts(seed=seed, kills=CRASHES)
    async with a_kling(processing_for="200ms", seed=seed) as kling:
        config = a_config(kling.url, kling_more='timeout = "1s"', more=CONFIG)
        async with a_receiver(tmp_path, config) as receiver:
            async with receiver.client() as client:
                await submit_job(client, "first")  # found by its external id, so a later not found is trusted
            kling.configure(FAULTS)
            for round_ in range(CRASHES):
                await kill_while_submitting(receiver, rng, [f"{round_}-{number}" for number in range(4)])
                await receiver.start()
            kling.configure({"lose": 0, "hang_up": 0, "refuse": [], "drop": 0})
            async with receiver.client() as client:
                for round_ in range(CRASHES):
                    await asyncio.gather(*(submit_job(client, f"{round_}-{number}") for number in range(4)))
            await wait_until(lambda: receiver.rows(OPEN) == [(0,)], seconds=60)

            tasks = receiver.rows("SELECT external_task_id, kling_id, state, origin, message FROM tasks")
            assert await receiver.stop() == 0

        made = created_counts(kling)
        record_counts(
            jobs_taken=len(tasks), made_at_kling=len(made), made_twice=sum(count > 1 for count in made.values())
        )
        assert set(made.values()) <= {1}
        by_key = [task for task in tasks if task[3] == "api"]
        assert len(by_key) == 4 * CRASHES + 1
        assert {task[2] for task in by_key} == {"succeed"}
        refused = {task[0] for task in tasks if task[2] == "rejected"}
        assert refused.isdisjoint(made)
        assert {task[0] for task in tasks} - refused == set(made)
        known = {task["external_task_id"]: task["id"] for task in kling.state()["tasks"]}
        assert {task[0]: task[1] for task in tasks if task[0] not in refused} == known
