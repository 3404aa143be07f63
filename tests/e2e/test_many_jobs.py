"""One command submits more jobs than there are slots: each is created once, through kill -9 and repeated commands."""

import asyncio
import json
import sys
from collections import Counter
from functools import partial
from pathlib import Path

from harness.run_cli import clean_environment, run_cli
from harness.running_service import ENDPOINT, JOB, KEY, a_config, a_kling, a_receiver
from harness.waiting import wait_until

from receiver.kling.simulator import Simulator

JOBS = 24
SLOTS = 3


def write_jobs(folder: Path, *, failing: int = -1) -> Path:
    path = folder / "jobs.jsonl"
    jobs = [JOB | {"prompt": "[fail]" if n == failing else f"job {n}"} for n in range(JOBS)]
    path.write_text("".join(json.dumps(job) + "\n" for job in jobs))
    return path


async def submit(*argv: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "receiver",
        "submit",
        *argv,
        env=clean_environment(KLING_API_KEY=KEY),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


def has_made(simulator: Simulator, count: int) -> bool:
    return simulator.counts["created"] >= count


async def test_each_job_of_a_file_is_created_once_through_kills(tmp_path: Path) -> None:
    path = write_jobs(tmp_path, failing=7)
    async with a_kling(slots=f"image={SLOTS}") as simulator:
        config = a_config(simulator.url, kling_more=f"slots = {{ image = {SLOTS} }}")
        async with a_receiver(tmp_path, config) as receiver:
            argv = [ENDPOINT, "--body", f"@{path}", "--wait", "--json", "--batch", "all", "--close-batch"]
            argv += ["--config", str(receiver.config_path)]
            command = await submit(*argv)
            for count in (JOBS // 4, JOBS // 2):
                await wait_until(partial(has_made, simulator, count), seconds=60)
                receiver.kill()
                await receiver.start()
            output, noted = await asyncio.wait_for(command.communicate(), 90)

            assert command.returncode == 1, noted.decode()
            tasks = [json.loads(line) for line in output.splitlines()]
            assert len({task["id"] for task in tasks}) == JOBS
            made = Counter(task["external_task_id"] for task in simulator.state()["tasks"])
            assert made == Counter(task["id"] for task in tasks)
            assert f"{JOBS - 1} succeeded, 1 did not" in noted.decode()
            assert [task["line"] for task in tasks] == list(range(1, JOBS + 1))
            assert [(task["line"], task["message"]) for task in tasks if task["state"] == "failed"] == [
                (8, "Image pixel is invalid")
            ]

            finished = "SELECT name, task_count FROM batches WHERE finished_at IS NOT NULL"
            await wait_until(lambda: receiver.rows(finished) == [("all", JOBS)], seconds=60)

            again = await asyncio.to_thread(run_cli, "submit", *argv)
            assert f"{JOBS} jobs: 0 new, {JOBS - 1} succeeded earlier" in again.stderr
            anew = await asyncio.to_thread(run_cli, "submit", *argv[:3], "--idempotency-key", "2", "--config", argv[-1])
            assert anew.returncode == 0
            assert "earlier" not in anew.stderr
            await wait_until(partial(has_made, simulator, 2 * JOBS), seconds=60)


async def test_queued_jobs_of_a_file_stay_cancelled_through_a_kill(tmp_path: Path) -> None:
    path = write_jobs(tmp_path)
    async with a_kling(slots=f"image={SLOTS}", processing_for="10m") as simulator:
        config = a_config(simulator.url, kling_more=f"slots = {{ image = {SLOTS} }}")
        async with a_receiver(tmp_path, config) as receiver:
            where = ["--config", str(receiver.config_path)]
            argv = ["submit", ENDPOINT, "--body", f"@{path}", "--batch", "all", "--close-batch", *where]
            assert (await asyncio.to_thread(run_cli, *argv)).returncode == 0
            await wait_until(partial(has_made, simulator, SLOTS), seconds=60)

            done = await asyncio.to_thread(
                run_cli, "tasks", "cancel", "--batch", "all", "--why", "a typo", "--json", *where
            )

            assert done.returncode == 0, done.stderr
            assert f"{JOBS - SLOTS} tasks cancelled." in done.stderr
            assert {task["state"] for task in json.loads(done.stdout)["items"]} == {"cancelled"}
            receiver.kill()
            await receiver.start()
            cancelled = "SELECT count(*), min(reason) FROM actions WHERE verb = 'task.cancelled'"
            assert receiver.rows(cancelled) == [(JOBS - SLOTS, "a typo")]
            counts = "SELECT state = 'rejected', count(*) FROM tasks GROUP BY 1 ORDER BY 1"
            assert receiver.rows(counts) == [(0, SLOTS), (1, JOBS - SLOTS)]
            assert simulator.counts["created"] == SLOTS


async def test_jobs_of_three_models_use_the_slots_of_their_own_model(tmp_path: Path) -> None:
    models = {"kling-v2-1": 3, "kling-v2": 2, "kling-v1": 1}
    jobs = [JOB | {"model_name": model, "prompt": f"job {n}"} for n in range(6) for model in models]
    path = tmp_path / "jobs.jsonl"
    path.write_text("".join(json.dumps(job) + "\n" for job in jobs))
    async with a_kling(slots=[f"image/{model}={slots}" for model, slots in models.items()]) as simulator:
        limits = 'slots = { image = 3, models = { "kling-v2" = 2, "kling-v1" = 1 } }'
        async with a_receiver(tmp_path, a_config(simulator.url, kling_more=limits)) as receiver:
            command = await submit(
                ENDPOINT, "--body", f"@{path}", "--wait", "--json", "--config", str(receiver.config_path)
            )
            await wait_until(partial(has_made, simulator, 6), seconds=60)
            receiver.kill()
            await receiver.start()
            _, noted = await asyncio.wait_for(command.communicate(), 90)

    assert command.returncode == 0, noted.decode()
    assert Counter(task["body"]["model_name"] for task in simulator.state()["tasks"]) == dict.fromkeys(models, 6)
    assert {create["code"] for create in simulator.creates} == {0}
