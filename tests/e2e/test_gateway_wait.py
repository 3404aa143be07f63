"""`[gateway] wait` with the real service, on an account with one slot."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from harness.running_service import ENDPOINT, JOB, Receiver, a_config, a_kling, a_receiver
from harness.waiting import wait_until

from receiver.kling.simulator import Simulator

PATH = f"/kling/v1/{ENDPOINT}"
NAMED = 'tokens = { anna = "the-token-of-anna-1" }\n'
QUEUED = "SELECT count(*) FROM tasks WHERE state = 'queued'"
REJECTED = "SELECT count(*) FROM tasks WHERE state = 'rejected'"


@asynccontextmanager
async def a_full_account(
    folder: Path, *, wait: str, processing_for: str = "300ms", slots: int = 0
) -> AsyncIterator[tuple[Receiver, Simulator, httpx2.AsyncClient]]:
    """Run a receiver whose gateway waits for a slot, in front of a Kling with one slot that is in use."""
    limit = f"slots = {{ image = {slots} }}"
    async with a_kling(slots="image=1", processing_for=processing_for) as kling:
        config = a_config(kling.url, more=f'[gateway]\nwait = "{wait}"\n', kling_more=limit).replace(
            "[kling]", f"{NAMED}[kling]"
        )
        async with a_receiver(folder, config) as receiver, receiver.client() as client:
            assert (await create(client, 0)).status_code == 200
            yield receiver, kling, client


async def create(client: httpx2.AsyncClient, number: int, **headers: str) -> httpx2.Response:
    return await client.post(PATH, json=JOB | {"prompt": f"cat {number}"}, headers=headers)


def created(kling: Simulator) -> list[dict[str, Any]]:
    return [each for each in kling.state()["creates"] if each["code"] == 0]


async def test_many_jobs_on_few_slots_are_all_answered_with_kling_s_task(tmp_path: Path) -> None:
    async with a_full_account(tmp_path, wait="1m") as (receiver, kling, client):
        keyed = [create(client, 9, **{"idempotency-key": "order-17"}) for _ in range(2)]
        answers = await asyncio.gather(*keyed, *(create(client, number) for number in range(1, 5)))

        assert [answer.status_code for answer in answers] == [200] * 6
        ids = [answer.json()["data"]["task_id"] for answer in answers]
        assert ids[0] == ids[1]
        assert len(set(ids)) == 5
        assert len(created(kling)) == 6
        assert receiver.rows("SELECT count(*) FROM tasks WHERE state = 'rejected'") == [(0,)]


async def test_a_client_gets_1303_after_the_wait_and_pays_nothing(tmp_path: Path) -> None:
    async with a_full_account(tmp_path, wait="1500ms", processing_for="1m") as (receiver, kling, client):
        answer = await create(client, 1)

        assert answer.status_code == 429
        assert answer.json()["code"] == 1303
        assert len(created(kling)) == 1
        assert receiver.rows(QUEUED) == [(0,)]


@pytest.mark.parametrize("token", ["", "the-token-of-anna-1"], ids=["the admin token", "a named token"])
async def test_a_gateway_client_that_disconnects_while_it_waits_pays_nothing(tmp_path: Path, token: str) -> None:
    async with a_full_account(tmp_path, wait="1m", processing_for="10s") as (receiver, kling, client):
        with_body = json.dumps(JOB).encode()
        host = receiver.admin.removeprefix("http://")
        address, port = host.split(":")
        _, writer = await asyncio.open_connection(address, int(port))
        head = f"POST {PATH} HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {token or receiver.token}\r\n"
        writer.write(f"{head}content-length: {len(with_body)}\r\n\r\n".encode() + with_body)
        await wait_until(lambda: receiver.rows(QUEUED) == [(1,)])

        writer.close()
        await wait_until(lambda: receiver.rows(REJECTED) == [(1,)])
        assert (await create(client, 2)).status_code == 200

        assert len(created(kling)) == 2
        (message,) = receiver.rows("SELECT message FROM tasks WHERE state = 'rejected'")
        assert "The client left" in message[0]


async def test_at_a_stop_waiting_clients_are_answered_and_nothing_is_sent(tmp_path: Path) -> None:
    async with a_full_account(tmp_path, wait="5m", processing_for="1m") as (receiver, kling, client):
        waiting = [asyncio.create_task(create(client, number)) for number in range(1, 4)]
        await wait_until(lambda: receiver.rows(QUEUED) == [(3,)])

        code = await receiver.stop()
        answers = await asyncio.gather(*waiting)

        assert code == 0
        for answer in answers:
            assert answer.status_code == 503
            assert answer.headers["retry-after"]
            assert "It was not sent" in answer.json()["message"]
        assert len(created(kling)) == 1


async def test_creates_that_waited_when_the_service_was_killed_are_not_sent_later(tmp_path: Path) -> None:
    # with a configured limit no create is in flight to probe it, which a kill would leave without a clear answer
    async with a_full_account(tmp_path, wait="5m", processing_for="2s", slots=1) as (receiver, kling, client):
        waiting = asyncio.create_task(create(client, 1, **{"idempotency-key": "order-18"}))
        await wait_until(lambda: receiver.rows(QUEUED) == [(1,)])
        receiver.kill()
        await asyncio.gather(waiting, return_exceptions=True)
        assert len(created(kling)) == 1

        await receiver.start()
        await wait_until(lambda: receiver.rows(QUEUED) == [(0,)])
        async with receiver.client() as again:
            answer = await create(again, 1, **{"idempotency-key": "order-18"})

        assert answer.status_code == 200
        assert len(created(kling)) == 2
