"""Callbacks of a few tasks, in any order and of any kind, have the same results in a group as one after the other."""

import json
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from random import Random

import pytest
from chaos.parameters import fresh_seed
from data.malformed_bodies import a_bad_body
from harness.factories import a_task
from harness.fake_kling import IMAGES
from harness.soak_report import RecordCounts
from harness.task_system import TaskSystem, a_task_system

from receiver.domain import signing
from receiver.domain.clock import token_hash
from receiver.domain.errors import ReceiverError
from receiver.domain.secret import Secret
from receiver.settings import CallbackSettings, Verify
from receiver.tracking.parsed_push import Callback

KEY, OTHER_KEY = Secret("whsec_" + "a" * 32), Secret("whsec_" + "b" * 32)
GROUPS = 5
TASK_COUNT, MAX_SIZE = 4, 32
STATUSES = ("submitted", "processing", "processing", "succeed", "failed", "simmering")
UNKNOWN = "a-token-of-no-task"


def random_callback(rng: Random, system: TaskSystem) -> Callback:
    """Make a callback of one of the tasks: good, redundant, about another task, malformed, signed well or badly."""
    number = rng.randrange(TASK_COUNT)
    headers, at = [("content-type", "application/json")], system.clock.now()
    bad = a_bad_body(rng)
    if rng.random() < 0.2:
        body = bad.body
        headers += bad.headers.items()
    else:
        status = rng.choice(STATUSES)
        told = {"task_id": rng.choice([f"k{number}", f"k{number}", "k-other"]), "task_status": status}
        result = {"task_result": IMAGES} if status == "succeed" and rng.random() < 0.8 else {}
        body = json.dumps(told | result).encode()
    if rng.random() < 0.3:
        key = rng.choice([KEY, KEY, OTHER_KEY])
        signature = signing.sign([key], message_id="msg", at=at, body=body)
        headers += [("webhook-id", "msg"), ("webhook-timestamp", signing.timestamp(at))]
        headers += [("webhook-signature", signature)]
    token = f"token-{number}" if rng.random() < 0.95 else UNKNOWN
    return Callback(token=token, token_hash=token_hash(token), headers=headers, body=body)


async def add_tasks(system: TaskSystem) -> None:
    for number in range(TASK_COUNT):
        names = {"id": f"tsk_{number}", "external_task_id": f"tsk_{number}", "kling_id": f"k{number}"}
        await system.store.tasks.add(a_task(token_hash=token_hash(f"token-{number}"), **names), b"{}")


async def accept_one_by_one(system: TaskSystem, callbacks: Sequence[Callback]) -> Sequence[bool | BaseException]:
    outcomes: list[bool | BaseException] = []
    for each in callbacks:
        try:
            outcomes.append(await system.inbox.accept_callback(each.token, each.headers, each.body))
        except ReceiverError as exc:
            outcomes.append(exc)
    return outcomes


async def stored_state(system: TaskSystem) -> Sequence[object]:
    """Return each task, its pushes and its events, without their ids."""
    found: list[object] = []
    for number in range(TASK_COUNT):
        name = f"tsk_{number}"
        events = (await system.store.catalog.events(task_id=name, limit=200)).items
        pushes = await system.store.catalog.pushes(name)
        found.append((
            await system.task(name),
            [(event.type, event.verified, event.body) for event in events],
            [(push.outcome, push.body, push.headers) for push in pushes],
        ))  # fmt: skip
    return found


@pytest.mark.parametrize("verify", Verify)
async def test_a_group_has_the_same_results_as_its_callbacks_one_by_one(
    tmp_path: Path, verify: Verify, record_counts: RecordCounts
) -> None:
    seed = fresh_seed()
    rng = Random(seed)
    record_counts(seed=seed, groups=GROUPS)
    callbacks = CallbackSettings(signing_secrets=(KEY,), verify=verify)
    async with (
        a_task_system(tmp_path / "together", callbacks=callbacks) as together,
        a_task_system(tmp_path / "alone", callbacks=callbacks) as alone,
    ):
        await add_tasks(together)
        await add_tasks(alone)
        for _ in range(GROUPS):
            group = [random_callback(rng, together) for _ in range(rng.randint(1, MAX_SIZE))]

            outcomes = await together.inbox.accept_callbacks(group)

            assert [repr(each) for each in outcomes] == [repr(each) for each in await accept_one_by_one(alone, group)]
            assert await stored_state(together) == await stored_state(alone)
            for system in (together, alone):
                system.clock.advance(timedelta(seconds=1))
