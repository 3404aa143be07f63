"""A program that submits, waits and follows continues through kills and restarts of the service."""

import asyncio
from pathlib import Path

from harness.running_service import ENDPOINT, JOB, a_config, a_kling, a_receiver
from harness.waiting import wait_until

from receiver import Client, SyncClient, Task

POLL = '[poll]\nafter = "1s"\nevery = "1s"'  # in case callbacks arrive while the service is down


async def test_waiting_survives_a_kill_and_a_restart(tmp_path: Path) -> None:
    async with (
        a_kling(processing_for="2s") as kling,
        a_receiver(tmp_path, a_config(kling.url, more=POLL)) as receiver,
        Client(config=receiver.config_path) as client,
    ):
        task = await client.submit(ENDPOINT, JOB, label="one")
        waiting = asyncio.create_task(client.wait(task.id, timeout=60))
        receiver.kill()
        await receiver.start()
        done = await waiting

    assert done.succeeded
    assert done.result_locations == tuple(entry["url"] for entry in done.result["images"])
    assert done.label == "one"


async def test_submit_waits_for_a_starting_service(tmp_path: Path) -> None:
    async with (
        a_kling() as kling,
        a_receiver(tmp_path, a_config(kling.url)) as receiver,
        Client(config=receiver.config_path) as client,
    ):
        first = await client.submit(ENDPOINT, JOB, idempotency_key="one")
        assert await receiver.stop() == 0
        submitting = asyncio.create_task(client.submit(ENDPOINT, JOB, idempotency_key="one"))
        await receiver.start()
        again = await submitting

    assert again.id == first.id


async def test_a_follower_gets_each_event_once_through_kills(tmp_path: Path) -> None:
    received: list[str] = []
    async with (
        a_kling() as kling,
        a_receiver(tmp_path, a_config(kling.url, more=POLL)) as receiver,
        Client(config=receiver.config_path) as client,
    ):

        async def listen() -> None:
            async for event in client.events():
                received.append(event.id)  # noqa: PERF401 -- read while the loop runs

        listening = asyncio.create_task(listen())
        for _ in range(2):
            tasks = [await client.submit(ENDPOINT, JOB) for _ in range(5)]
            receiver.kill()
            await receiver.start()
            for task in tasks:
                assert (await client.wait(task.id, timeout=60)).succeeded
        happened = {event.id for event in (await client.list_events(limit=500)).items}
        await wait_until(lambda: len(received) >= len(happened))
        listening.cancel()

    assert sorted(received) == sorted(happened)
    assert len(happened) >= 10


async def test_the_sync_client_returns_a_failed_task(tmp_path: Path) -> None:
    def plain(config: Path) -> list[Task]:
        with SyncClient(config=config) as client:
            task = client.submit(ENDPOINT, JOB)
            return [*client.follow(task.id), client.wait(task.id)]

    async with (
        a_kling(fail=1, fail_reason="too dark") as kling,
        a_receiver(tmp_path, a_config(kling.url, more=POLL)) as receiver,
    ):
        *_, last, done = await asyncio.to_thread(plain, receiver.config_path)

    assert (done.state, done.succeeded, done.is_finished, done.message) == ("failed", False, True, "too dark")
    assert done == last
