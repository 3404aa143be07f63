"""A signed push outranks unsigned ones: it binds a minted URL anew, and no limit refuses it."""

import asyncio
import json
from pathlib import Path

import pytest
from harness.submitted_tasks import a_running_task
from harness.task_system import TaskSystem, a_task_system

from receiver.domain import signing
from receiver.domain.errors import TooManyPending
from receiver.domain.model import TaskState
from receiver.domain.secret import Secret
from receiver.settings import CallbackSettings, Verify
from receiver.tracking.push_limiter import PushKind

KEY = Secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
SIGNED = CallbackSettings(signing_secrets=(KEY,))


def a_body(kling_id: str, status: str, **more: object) -> bytes:
    result = {"images": [{"index": 0, "url": "https://cdn.example.com/0.png"}]} if status == "succeed" else {}
    return json.dumps({"task_id": kling_id, "task_status": status, "task_result": result, **more}).encode()


async def push_signed(system: TaskSystem, token: str, body: bytes) -> bool:
    at = system.clock.now()
    signature = signing.sign([KEY], message_id="msg", at=at, body=body)
    headers = [
        ("webhook-id", "msg"),
        ("webhook-timestamp", str(int(at.timestamp()))),
        ("webhook-signature", signature),
    ]
    return await system.inbox.accept_callback(token, headers, body)


async def ends(system: TaskSystem, task_id: str) -> list[tuple[str, str]]:
    """Return the type and verification of each final event of a task, oldest first."""
    page = await system.store.catalog.events(task_id=task_id, types=["task.succeed", "task.failed"])
    return [(event.type, event.verified.value) for event in reversed(page.items)]


@pytest.mark.parametrize("forged_id", ["true", "forged"])
@pytest.mark.parametrize("forged_status", ["succeed", "failed"])
@pytest.mark.parametrize("verify", [Verify.TERMINAL, Verify.ALWAYS])
async def test_a_forged_end_does_not_cost_the_signed_one(
    tmp_path: Path, forged_id: str, forged_status: str, verify: Verify
) -> None:
    callbacks = CallbackSettings(signing_secrets=(KEY,), verify=verify)
    async with a_task_system(tmp_path, callbacks=callbacks) as system:
        task, url = await system.submitter.create_callback_url(endpoint=None)
        token = url.rpartition("/")[2]
        await system.push(token, a_body(forged_id, forged_status))
        await system.advance(3600 * 24 * 8, step=3600 * 24)

        await push_signed(system, token, a_body("true", "succeed"))
        await push_signed(system, token, a_body("true", "succeed"))
        await system.push(token, a_body("true", "failed"))

        ended = await system.task(task.id)
        assert (ended.state, ended.kling_id) == (TaskState.SUCCEED, "true")
        assert await ends(system, task.id) == [(f"task.{forged_status}", "none"), ("task.succeed", "signature")]


async def test_a_contradicted_end_raises_one_alert_even_across_processes(tmp_path: Path) -> None:
    async with a_task_system(tmp_path, callbacks=SIGNED) as system:
        _task, url = await system.submitter.create_callback_url(endpoint=None)
        token = url.rpartition("/")[2]
        await push_signed(system, token, a_body("true", "succeed"))
        await push_signed(system, token, a_body("true", "failed"))

    async with a_task_system(tmp_path, callbacks=SIGNED) as other:
        await push_signed(other, token, a_body("true", "failed", task_status_msg="again"))

        assert len(await other.alerts("task_contradicted")) == 1


async def test_ends_of_one_moment_are_stored_in_one_transaction(tmp_path: Path) -> None:
    async with a_task_system(tmp_path, callbacks=SIGNED) as system:
        task, url = await system.submitter.create_callback_url(endpoint=None)
        token = url.rpartition("/")[2]

        await asyncio.gather(
            system.push(token, a_body("true", "failed")),
            *[push_signed(system, token, a_body("true", "succeed")) for _ in range(3)],
            *[system.push(token, a_body("true", "failed")) for _ in range(3)],
        )

        assert (await system.task(task.id)).state is TaskState.SUCCEED
        assert await ends(system, task.id) in (
            [("task.failed", "none"), ("task.succeed", "signature")],
            [("task.succeed", "signature")],
        )


@pytest.mark.parametrize("forged_status", ["submitted", "processing", "unheard of"])
async def test_a_signed_push_replaces_the_id_of_an_unsigned_one(tmp_path: Path, forged_status: str) -> None:
    async with a_task_system(tmp_path, callbacks=SIGNED) as system:
        task, url = await system.submitter.create_callback_url(endpoint=None)
        token = url.rpartition("/")[2]
        await system.push(token, a_body("forged", forged_status))
        assert (await system.task(task.id)).kling_id == "forged"

        await push_signed(system, token, a_body("true", "succeed"))

        ended = await system.task(task.id)
        assert (ended.state, ended.kling_id) == (TaskState.SUCCEED, "true")
        page = await system.store.catalog.events(task_id=task.id, types=["task.succeed"])
        assert [event.verified for event in page.items] == ["signature"]
        assert (await system.push_outcomes(task.id))[-1] == "applied"


async def test_a_signed_push_does_not_replace_the_id_of_a_signed_one(tmp_path: Path) -> None:
    async with a_task_system(tmp_path, callbacks=SIGNED) as system:
        task, url = await system.submitter.create_callback_url(endpoint=None)
        token = url.rpartition("/")[2]
        await push_signed(system, token, a_body("first", "processing"))

        await push_signed(system, token, a_body("second", "succeed"))

        kept = await system.task(task.id)
        assert (kept.state, kept.kling_id) == (TaskState.PROCESSING, "first")
        assert await system.push_outcomes(task.id) == ["applied", "mismatch"]


async def test_an_unsigned_push_does_not_change_a_bound_id(tmp_path: Path) -> None:
    async with a_task_system(tmp_path, callbacks=SIGNED) as system:
        task, url = await system.submitter.create_callback_url(endpoint=None)
        token = url.rpartition("/")[2]
        await system.push(token, a_body("first", "processing"))

        await system.push(token, a_body("second", "succeed"))

        assert (await system.task(task.id)).kling_id == "first"


async def test_an_id_that_the_api_has_confirmed_is_not_replaced(tmp_path: Path) -> None:
    async with a_task_system(tmp_path, callbacks=SIGNED) as system, system.running():
        task, kling_task = await a_running_task(system)

        await push_signed(system, kling_task.token, a_body("other", "succeed"))
        await system.settle()

        assert (await system.task(task.id)).kling_id == kling_task.id


async def test_a_signed_push_passes_when_unsigned_ones_are_refused(tmp_path: Path) -> None:
    async with a_task_system(tmp_path, callbacks=SIGNED) as system:
        task, kling_task = await a_running_task(system)
        forged = a_body(kling_task.id, "succeed", task_status_msg="a lie")
        for _ in range(PushKind.END.value[0]):
            assert await system.push(kling_task.token, forged)

        with pytest.raises(TooManyPending):
            await system.push(kling_task.token, forged)
        assert await push_signed(system, kling_task.token, system.kling.finish_task(kling_task))

        assert (await system.task(task.id)).state is TaskState.SUCCEED


async def test_large_unsigned_pushes_are_refused_before_those_of_the_usual_size(tmp_path: Path) -> None:
    async with a_task_system(tmp_path, callbacks=CallbackSettings(verify=Verify.TERMINAL)) as system, system.running():
        task, kling_task = await a_running_task(system)
        for number in range(PushKind.LARGE.value[0]):
            lie = a_body(kling_task.id, "succeed", task_status_msg=f"{number}" + "x" * 80_000)
            assert await system.push(kling_task.token, lie)

        with pytest.raises(TooManyPending):
            await system.push(kling_task.token, a_body(kling_task.id, "failed", task_status_msg="x" * 80_000))
        assert await system.push(kling_task.token, system.kling.finish_task(kling_task))
        await system.advance(10, step=5)

        assert (await system.task(task.id)).state is TaskState.SUCCEED
