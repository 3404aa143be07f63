"""`tasks retry` submits what failed again: as new tasks, each once, linked to the old ones."""

import asyncio
import json
from pathlib import Path

from harness.running_service import ENDPOINT, JOB, a_config, a_kling, a_receiver, wait_for_state
from harness.waiting import wait_until

WHY = ("--why", "a better seed")


def write_jobs(folder: Path) -> Path:
    path = folder / "jobs.jsonl"
    lines = [JOB | {"prompt": prompt} for prompt in ("a", "[fail] b", "[fail] c")]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


async def test_the_failed_tasks_of_a_batch_become_new_tasks_once(tmp_path: Path) -> None:
    async with a_kling() as kling, a_receiver(tmp_path, a_config(kling.url)) as receiver:
        cli = receiver.run_cli_async
        jobs = ("submit", ENDPOINT, "--body", f"@{write_jobs(tmp_path)}", "--batch", "spring", "--close-batch")
        assert (await cli(*jobs, "--wait")).returncode == 1
        command = ("tasks", "retry", "--failed", "--batch", "spring", *WHY)

        unasked = await cli(*command)
        listed = await cli(*command, "--dry-run", "--json")
        done = await cli(*command, "--yes", "--json")
        again = await cli(*command, "--yes", "--json")

        assert unasked.returncode == 2
        assert "Submit 2 tasks again? Kling charges for each." in unasked.stderr
        old = {task["id"] for task in json.loads(listed.stdout)["items"]}
        new = json.loads(done.stdout)["items"]
        assert {task["tags"]["retry_of"] for task in new} == old
        assert {task["batch"] for task in new} == {"spring-retry"}
        assert "2 tasks submitted again." in done.stderr
        assert [task["id"] for task in json.loads(again.stdout)["items"]] == [task["id"] for task in new]
        assert again.stderr == "Nothing was submitted. 2 tasks had been submitted again earlier.\n"
        closed = "SELECT count(*) FROM batches WHERE name = 'spring-retry' AND finished_at IS NOT NULL"
        await wait_until(lambda: receiver.rows(closed) == [(1,)])
        assert kling.counts["created"] == 5


async def test_only_a_failed_task_can_be_retried(tmp_path: Path) -> None:
    async with (
        a_kling() as kling,
        a_receiver(tmp_path, a_config(kling.url)) as receiver,
        receiver.client() as client,
    ):
        task = (await client.post("/api/tasks", json={"endpoint": ENDPOINT, "body": JOB})).json()
        await wait_for_state(client, task["id"], "succeed")

        refused, both = await asyncio.gather(
            receiver.run_cli_async("tasks", "retry", task["id"], "--yes"),
            receiver.run_cli_async("tasks", "retry", task["id"], "--failed"),
        )

        assert refused.returncode == 1
        assert (
            f"The state of task {task['id']} is 'succeed'. Only a failed, rejected, cancelled or expired task"
            in refused.stderr
        )
        assert both.returncode == 2


async def test_a_retry_leaves_out_the_external_id_of_the_client(tmp_path: Path) -> None:
    async with (
        a_kling() as kling,
        a_receiver(tmp_path, a_config(kling.url)) as receiver,
        receiver.client() as client,
    ):
        body = JOB | {"prompt": "[fail]", "external_task_id": "mine-1"}
        task = (await client.post("/api/tasks", json={"endpoint": ENDPOINT, "body": body})).json()
        await wait_for_state(client, task["id"], "failed")

        new = (await client.post(f"/api/tasks/{task['id']}/retry", json={})).json()

        assert new["external_task_id"] == new["id"] != task["id"]
        await wait_for_state(client, new["id"], "failed")
        assert kling.counts["created"] == 2
