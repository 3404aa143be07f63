"""`tasks delete` through the real command: what goes, what stays, and what is refused."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
from harness.http_client import plain_http
from harness.running_service import (
    Receiver,
    a_config,
    a_kling,
    a_push_body,
    a_receiver,
    create_callback_url,
    submit_task,
    wait_for_state,
)
from harness.s3_server import ACCESS_KEY, BUCKET, SECRET_KEY, an_s3_server
from harness.waiting import wait_until
from harness.whole_service import a_whole_service

ARCHIVE = '[archive]\ndir = "results"\n[network]\nallow = ["127.0.0.0/8"]\n'
STORED = "SELECT count(*) FROM {}"
TABLES = ("tasks", "intents", "pushes", "events", "deliveries", "attempts", "assets")


def row_counts(receiver: Receiver) -> list[int]:
    return [receiver.rows(STORED.format(table))[0][0] for table in TABLES]


@asynccontextmanager
async def a_service(folder: Path, more: str = ARCHIVE) -> AsyncIterator[tuple[Receiver, httpx2.AsyncClient]]:
    """Run a receiver with an archive and a route."""
    async with a_whole_service(folder, more=more, route='on = ["*"]') as (_, _, receiver, client):
        yield receiver, client


async def a_finished_task(receiver: Receiver, client: httpx2.AsyncClient) -> str:
    """Run a task until its results are archived and its event is delivered."""
    task = await submit_task(client, label="summer")
    await wait_for_state(client, task["id"], "succeed")
    pending = "SELECT count(*) FROM deliveries WHERE status = 'pending'"
    await wait_until(lambda: receiver.rows(pending) == [(0,)])
    await wait_until(lambda: receiver.rows("SELECT count(*) FROM assets")[0][0] > 0)
    return str(task["id"])


async def test_a_task_is_previewed_confirmed_and_deleted_with_its_results(tmp_path: Path) -> None:
    async with a_service(tmp_path) as (receiver, client):
        task = await a_finished_task(receiver, client)
        costs = await receiver.run_cli_async("tasks", "cost", "--by", "label", "--json")

        unasked = await receiver.run_cli_async("tasks", "delete", task)
        listed = await receiver.run_cli_async("tasks", "delete", task, "--results", "--dry-run", "--json")
        assert all(row_counts(receiver))
        done = await receiver.run_cli_async(
            "tasks", "delete", task, "--results", "--yes", "--why", "a customer's wish", "--json"
        )

        assert unasked.returncode == 2
        assert "Delete 1 task for good?" in unasked.stderr
        (preview,) = json.loads(listed.stdout)["items"]
        (deletion,) = json.loads(done.stdout)["items"]
        assert (done.returncode, preview["dry_run"], deletion["dry_run"]) == (0, True, False)
        assert preview["removed"] == deletion["removed"] != []
        assert deletion["events"] >= 1
        assert deletion["left"] == []
        assert row_counts(receiver) == [0] * len(TABLES)
        assert [path for path in (tmp_path / "results").rglob("*") if path.is_file()] == []
        assert receiver.rows("SELECT verb, subject, reason FROM actions") == [
            ("task.deleted", task, "a customer's wish")
        ]
        again = await receiver.run_cli_async("tasks", "cost", "--by", "label", "--json")
        assert json.loads(again.stdout) == json.loads(costs.stdout)
        assert '"summer"' in costs.stdout


async def test_without_results_the_files_stay_and_are_named(tmp_path: Path) -> None:
    async with a_service(tmp_path) as (receiver, client):
        task = await a_finished_task(receiver, client)

        done = await receiver.run_cli_async("tasks", "delete", task, "--yes")

        (file,) = (path for path in (tmp_path / "results").rglob("*") if path.is_file())
        assert done.returncode == 0
        assert f"Left: {file}" in done.stderr
        assert (await client.get(f"/api/tasks/{task}")).status_code == 404


async def test_a_running_task_is_refused_with_what_to_do(tmp_path: Path) -> None:
    async with (
        a_kling(processing_for="1m") as kling,
        a_receiver(tmp_path, a_config(kling.url)) as receiver,
        receiver.client() as client,
    ):
        task = await submit_task(client)

        refused = await receiver.run_cli_async("tasks", "delete", task["id"], "--yes")
        answer = await client.delete(f"/api/tasks/{task['id']}")

        assert refused.returncode == 1
        assert "Only a task that has ended can be deleted. Wait for its end: `kling-receiver" in refused.stderr
        assert answer.status_code == 409
        assert (await client.get(f"/api/tasks/{task['id']}")).status_code == 200


async def test_a_late_push_for_a_deleted_task_gets_the_404_of_an_unknown_token(tmp_path: Path) -> None:
    async with a_service(tmp_path, '[callbacks]\nverify = "never"\n') as (receiver, client), plain_http() as public:
        minted, url = await create_callback_url(client, endpoint="images/generations")
        first = await public.post(url, content=a_push_body("succeed"))
        assert first.status_code == 200
        deleted = await client.delete(f"/api/tasks/{minted['id']}")
        assert deleted.status_code == 200, deleted.text

        late = await public.post(url, content=a_push_body("succeed"))
        unknown = await public.post(url[:-1] + ("a" if url[-1] != "a" else "b"), content=a_push_body("succeed"))

        assert (late.status_code, late.content) == (unknown.status_code, unknown.content)
        assert late.status_code == 404
        assert row_counts(receiver) == [0] * len(TABLES)


async def test_a_task_with_retries_in_flight_is_deleted_and_delivers_nothing_more(tmp_path: Path) -> None:
    answering = asyncio.Event()

    async def fail_slowly() -> int:
        await answering.wait()
        return 500

    async with a_whole_service(tmp_path, route='retry = ["200ms"]') as (sink, _, receiver, client):
        sink.answer = fail_slowly
        task = await submit_task(client)
        await wait_until(lambda: len(sink.bodies) == 1)  # the attempt is in flight

        answer = await client.delete(f"/api/tasks/{task['id']}")
        answering.set()
        other = await submit_task(client)
        await wait_until(lambda: len(sink.bodies) >= 3)

        assert answer.json()["pending_deliveries"] == 1
        events = [json.loads(body)["data"]["task"]["id"] for body in sink.bodies]
        assert events.count(task["id"]) == 1
        assert set(events[1:]) == {other["id"]}
        assert receiver.log_entries("service.failed") == []
        assert await receiver.stop() == 0


async def test_objects_are_removed_from_the_object_store(tmp_path: Path) -> None:
    async with an_s3_server(tmp_path) as s3, a_kling() as kling:
        storage = f"""
[archive.storage]
url = "s3://{BUCKET}/kling"
endpoint = "{s3.url}"
access_key = "env:S3_KEY"
secret_key = "env:S3_SECRET"
[network]
allow = ["127.0.0.0/8"]
"""
        keys = {"S3_KEY": ACCESS_KEY, "S3_SECRET": SECRET_KEY}
        async with (
            a_receiver(tmp_path, a_config(kling.url, more=storage), environ=keys) as receiver,
            receiver.client() as client,
        ):
            task = await a_finished_task(receiver, client)
            (url,) = receiver.rows("SELECT storage FROM assets")[0]

            done = await receiver.run_cli_async("tasks", "delete", task, "--results", "--yes", "--json")

            (deletion,) = json.loads(done.stdout)["items"]
            assert (deletion["removed"], deletion["left"]) == ([url], [])
            assert s3.objects() == {}
