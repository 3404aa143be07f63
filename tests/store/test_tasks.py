"""New tasks: what is stored, idempotency keys and tokens."""

import asyncio
from hashlib import sha256

import pytest
from harness.factories import a_task, an_event, at
from msgspec.structs import replace
from store.conftest import Store

from receiver.domain.errors import Conflict
from receiver.domain.model import ClientCallbacks, Origin, Polling, TaskState
from receiver.store.interfaces import ById, Change

TOKEN = sha256(b"token").digest()
FIRST = ById(id="tsk_1")


async def test_a_task_is_read_back_unchanged(store: Store) -> None:
    task = a_task(
        origin=Origin.API,
        token_hash=TOKEN,
        label="ein Löwe",
        tags={"project": "ads", "schön": "🦁"},
        idempotency_key="key",
        reply_to="https://client.example/hook?a=%2F&b=ü#c",
        client_callbacks=ClientCallbacks.FINAL,
        message="why",
        kling_state=TaskState.PROCESSING,
        weight=3,
        priority=4,
        share="ads",
        attempts=2,
        polling=Polling(count=5, at=at(1.000001), push_at=at(1.5), empty_results=2),
        redundant_push_count=7,
        started_at=at(0.5),
        due_at=at(2),
        expires_at=at(3),
    )

    await store.tasks.add(task, b"\x00\xffbody")

    assert await store.catalog.task("tsk_1") == task
    assert await store.tasks.intent("tsk_1") == b"\x00\xffbody"


async def test_a_task_of_nulls_is_read_back_unchanged(store: Store) -> None:
    task = a_task(endpoint=None, kling_id=None, external_task_id=None, slot_key="", due_at=None)

    await store.tasks.add(task, b"")

    assert await store.catalog.task("tsk_1") == task
    assert await store.tasks.intent("tsk_1") == b""


async def test_a_token_is_known_until_its_task_expires(store: Store) -> None:
    await store.tasks.add(a_task(token_hash=TOKEN, expires_at=at(10)), b"")
    await store.tasks.add(
        a_task(id="tsk_2", token_hash=sha256(b"other").digest(), external_task_id="e2", kling_id="k2"), b""
    )

    assert await store.tasks.has_live_token(TOKEN, now=at(9))
    assert not await store.tasks.has_live_token(TOKEN, now=at(10))
    assert await store.tasks.has_live_token(sha256(b"other").digest(), now=at(1_000_000))
    assert not await store.tasks.has_live_token(sha256(b"guess").digest(), now=at(0))


async def test_the_tokens_of_stored_tasks_are_known_without_a_read(store: Store) -> None:
    changed = sha256(b"changed").digest()
    task = a_task(token_hash=TOKEN)
    await store.tasks.add(task, b"")
    await store.tasks.apply(ById(id=task.id), lambda held, _: Change(task=replace(held, token_hash=changed)))

    assert set(store.tasks.known_tokens) == {TOKEN, changed}


async def test_the_intent_of_an_unknown_task_is_empty(store: Store) -> None:
    assert await store.tasks.intent("tsk_none") == b""


async def test_a_new_task_is_stored_with_its_events(store: Store) -> None:
    event = an_event(type="task.queued")

    await store.tasks.add(a_task(), b"{}", events=[event])

    assert await store.catalog.event("evt_1") == event


async def test_a_known_idempotency_key_returns_the_first_task(store: Store) -> None:
    first = a_task(idempotency_key="key")
    await store.tasks.add(first, b"first")

    second = await store.tasks.add(
        a_task(id="tsk_2", idempotency_key="key"), b"second", events=[an_event(task_id="tsk_2", type="task.queued")]
    )

    assert second == first
    assert await store.catalog.task("tsk_2") is None
    assert await store.tasks.intent("tsk_2") == b""
    assert await store.catalog.event("evt_1") is None


async def test_concurrent_tasks_with_one_key_are_stored_once(store: Store) -> None:
    tasks = [a_task(id=f"tsk_{n:02}", idempotency_key="key") for n in range(40)]

    given = await asyncio.gather(*(store.tasks.add(task, task.id.encode()) for task in tasks))

    assert len({task.id for task in given}) == 1
    assert [task.id for task in (await store.catalog.tasks()).items] == [given[0].id]
    assert await store.tasks.intent(given[0].id) == given[0].id.encode()


async def test_two_tasks_cannot_have_one_token(store: Store) -> None:
    await store.tasks.add(a_task(token_hash=TOKEN), b"")

    with pytest.raises(Conflict):
        await store.tasks.add(a_task(id="tsk_2", token_hash=TOKEN), b"")


async def test_text_that_cannot_be_stored_is_replaced(store: Store) -> None:
    await store.tasks.add(a_task(message="a\x00b\ud800c", label="\udfff", tags={"k": "\ud800"}), b"")

    task = await store.catalog.task("tsk_1")
    assert task is not None
    assert (task.message, task.label) == ("a\ufffdb\ufffdc", "\ufffd")
