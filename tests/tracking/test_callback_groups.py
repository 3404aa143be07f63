"""Callbacks that are stored in one transaction: each has the result that it would have alone."""

import asyncio
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import pytest
from harness.submitted_tasks import a_running_task
from harness.task_system import a_task_system

from receiver.domain import signing
from receiver.domain.clock import token_hash
from receiver.domain.errors import TooManyPending
from receiver.domain.secret import Secret
from receiver.settings import CallbackSettings
from receiver.tracking.parsed_push import Callback
from receiver.tracking.push_limiter import PushKind

KEY = Secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
LIMIT = PushKind.PROGRESS.value[0]


def callbacks_with(token: str, bodies: Sequence[bytes]) -> Sequence[Callback]:
    return [Callback(token=token, token_hash=token_hash(token), headers=(), body=body) for body in bodies]


def signed_callback(token: str, body: bytes, *, at: datetime) -> Callback:
    signature = signing.sign([KEY], message_id="msg", at=at, body=body)
    headers = (
        ("webhook-id", "msg"),
        ("webhook-timestamp", signing.timestamp(at)),
        ("webhook-signature", signature),
    )
    return Callback(token=token, token_hash=token_hash(token), headers=headers, body=body)


async def test_uncommitted_pushes_count_towards_the_limit_of_their_url(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system:
        _, kling_task = await a_running_task(system)
        repeated = kling_task.status_body(task_status="processing")
        await system.push(kling_task.token, repeated)  # the only one with an effect
        half = callbacks_with(kling_task.token, [repeated] * (LIMIT // 2))
        end = callbacks_with(kling_task.token, [kling_task.status_body(task_status="failed")])

        groups = await asyncio.gather(*(system.inbox.accept_callbacks(half) for _ in range(3)))
        (later,) = await system.inbox.accept_callbacks(half[:1])

        assert [*groups[0], *groups[1]] == [True] * LIMIT
        assert {type(outcome) for outcome in groups[2]} == {TooManyPending}
        assert isinstance(later, TooManyPending)
        assert await system.inbox.accept_callbacks(end) == [True]


async def test_an_error_after_the_commit_of_a_group_concerns_one_callback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(_: str) -> bool:
        raise KeyError("verified")

    async with a_task_system(tmp_path, callbacks=CallbackSettings(signing_secrets=(KEY,))) as system:
        _, kling_task = await a_running_task(system)
        _, url = await system.submitter.create_callback_url(endpoint=None)
        token, other = url.rpartition("/")[2], callbacks_with(kling_task.token, [kling_task.status_body()])
        await system.push(token, b'{"task_id":"forged","task_status":"processing"}')
        body = b'{"task_id":"true","task_status":"failed"}'
        signed = signed_callback(token, body, at=system.clock.now())
        monkeypatch.setattr(system.store.tasks, "has_verified_event", fail)

        failed, stored = await system.inbox.accept_callbacks([signed, *other])

        assert isinstance(failed, KeyError)
        assert stored is True


async def test_a_flood_of_pushes_without_an_id_is_limited_and_does_not_hide_the_one_that_names_the_task(
    tmp_path: Path,
) -> None:
    async with a_task_system(tmp_path) as system:
        task, url = await system.submitter.create_callback_url(endpoint=None)
        token, unnamed = url.rpartition("/")[2], b'{"task_status":"processing"}'
        await system.push(token, unnamed)  # the only one with an effect
        limit = PushKind.UNNAMED.value[0]
        flood = await system.inbox.accept_callbacks(callbacks_with(token, [unnamed] * (limit + 10)))

        named = await system.push(token, b'{"task_id":"1","task_status":"processing"}')

        assert [type(outcome) for outcome in flood].count(TooManyPending) == 10
        assert named
        assert (await system.task(task.id)).kling_id == "1"
        with pytest.raises(TooManyPending, match="without a task id"):
            await system.push(token, unnamed)
