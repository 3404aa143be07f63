"""Every body of the table, and what can be made of them, goes all the way: read, judged, stored, told of."""

import asyncio
import contextlib
import gzip
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chaos.parameters import env_int
from data.kling_bodies import CASES, case_bytes, corrupted_bodies, corrupted_bytes
from harness.soak_report import RecordCounts
from harness.task_system import IdleClock, TaskSystem, a_task_system
from hypothesis import HealthCheck, given, settings

from receiver.domain.errors import MalformedBody, TooManyPending
from receiver.domain.model import TaskState
from receiver.kling import protocol

EXAMPLES = env_int("EXAMPLES", 100)


async def push_to_new_url(system: TaskSystem, body: bytes) -> str:
    """Push a body to a URL of its own; give its task."""
    task, url = await system.submitter.create_callback_url(endpoint=None)
    assert await system.push(url.rpartition("/")[2], body)
    return task.id


@pytest.mark.parametrize("case", [each for each in CASES if "asked_for" not in each], ids=lambda case: case["rule"])
async def test_a_pushed_body_changes_its_task_as_listed(tmp_path: Path, case: dict[str, Any]) -> None:
    async with a_task_system(tmp_path) as system:
        task = await system.task(await push_to_new_url(system, case_bytes(case)))

        reading = protocol.parse_status(case_bytes(case))
        state = None if reading.has_duplicate_keys else reading.state
        assert task.state is (state or (TaskState.SUBMITTED if reading.kling_id else task.state))
        assert task.kling_id == reading.kling_id
        events = (await system.store.catalog.events(task_id=task.id)).items
        assert [event.type for event in events] == ([] if state is None else [f"task.{state}"])
        if events:
            data = json.loads(events[0].envelope)["data"]
            assert {kind: tuple(entries) for kind, entries in data["result"].items()} == reading.result


@pytest.mark.parametrize(("coding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
async def test_a_compressed_push_is_decoded(tmp_path: Path, coding: str, compress: Callable[[bytes], bytes]) -> None:
    async with a_task_system(tmp_path) as system:
        task, url = await system.submitter.create_callback_url(endpoint=None)
        body = b'{"task_id":"1","task_status":"processing"}'

        assert await system.inbox.accept_callback(
            url.rpartition("/")[2], [("content-encoding", coding)], compress(body)
        )

        (push,) = await system.store.catalog.pushes(task.id)
        assert (push.body, push.headers) == (body, ())
        assert (await system.task(task.id)).state is TaskState.PROCESSING


@pytest.mark.parametrize(
    "body",
    [b"{}", gzip.compress(b"{}")[:-1], gzip.compress(b" " * (2 << 20))],
    ids=["plain", "cut off", "too large when decoded"],
)
async def test_a_push_that_cannot_be_decoded_is_refused(tmp_path: Path, body: bytes) -> None:
    async with a_task_system(tmp_path) as system:
        task, url = await system.submitter.create_callback_url(endpoint=None)

        with pytest.raises(MalformedBody, match=r"cannot be decoded\. Its content-encoding is 'gzip'"):
            await system.inbox.accept_callback(url.rpartition("/")[2], [("content-encoding", "gzip")], body)

        assert await system.store.catalog.pushes(task.id) == []


@pytest.mark.parametrize("size", [100_000, 2 << 20], ids=["fits when decoded", "too large when decoded"])
async def test_pushes_that_are_large_when_decoded_are_soon_refused_undecoded(tmp_path: Path, size: int) -> None:
    async with a_task_system(tmp_path) as system:
        _, url = await system.submitter.create_callback_url(endpoint=None)
        token, headers = url.rpartition("/")[2], [("content-encoding", "gzip")]
        large = gzip.compress(b'{"a":"%b"}' % (b"x" * size))
        for _ in range(10):
            with contextlib.suppress(MalformedBody):
                await system.inbox.accept_callback(token, headers, large)

        with pytest.raises(TooManyPending, match="larger than 16 KiB"):
            await system.inbox.accept_callback(token, headers, large)
        small = gzip.compress(b'{"task_id":"1","task_status":"processing"}')
        assert await system.inbox.accept_callback(token, headers, small)


@pytest.mark.soak("odd bodies through the inbox", minutes=3)
def test_any_body_can_be_stored(tmp_path: Path, record_counts: RecordCounts) -> None:
    record_counts(bodies=EXAMPLES)
    with asyncio.Runner() as runner:
        opening = a_task_system(tmp_path, clock=IdleClock())
        system = runner.run(opening.__aenter__())

        @settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
        @given(corrupted_bodies().map(lambda body: json.dumps(body).encode()) | corrupted_bytes())
        def holds(body: bytes) -> None:
            try:
                protocol.parse_object(body)
            except MalformedBody:
                with pytest.raises(MalformedBody):
                    runner.run(push_to_new_url(system, body))
                return
            task_id = runner.run(push_to_new_url(system, body))
            (push,) = runner.run(_pushes(system, task_id))
            assert push == body

        with contextlib.ExitStack() as stack:
            stack.callback(lambda: runner.run(opening.__aexit__(None, None, None)))
            holds()


async def _pushes(system: TaskSystem, task_id: str) -> list[bytes | None]:
    return [push.body for push in await system.store.catalog.pushes(task_id)]
