"""Whatever comes, in whatever order and however often: one end, each event once, and only what Kling's API says."""

import asyncio
import base64
import contextlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from chaos.parameters import env_int
from harness.fake_kling import IMAGES
from harness.soak_report import RecordCounts
from harness.task_system import ENDPOINT, IdleClock, TaskSystem, a_task_system
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from receiver.domain import signing
from receiver.domain.clock import token_hash
from receiver.domain.model import Json, Origin, PushOutcome, Task, TaskState
from receiver.domain.secret import Secret
from receiver.kling import protocol
from receiver.settings import CallbackSettings, Verify

EXAMPLES = env_int("EXAMPLES", 100)
KEY = Secret("whsec_" + base64.b64encode(b"the-key-of-these-tests").decode())
RANK = {"awaiting": 0, "submitted": 1, "processing": 2, "succeed": 3, "failed": 3}


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """One thing that comes: a push, signed well, wrongly or not at all, or an answer of the API."""

    status: str
    kling_id: str = "k1"
    is_empty: bool = False
    signature: str = ""
    is_answer: bool = False

    def body(self, task: Task) -> bytes:
        body: Json = {"task_id": self.kling_id, "task_status": self.status}
        if self.kling_id == "k1":
            body["task_info"] = {"external_task_id": task.external_task_id}
        if self.status == "succeed" and not self.is_empty:
            body["task_result"] = IMAGES
        return json.dumps(body).encode()


STATUSES = st.sampled_from(["submitted", "processing", "succeed", "failed", "simmering"])
UPDATES = st.builds(
    Update,
    status=STATUSES,
    kling_id=st.sampled_from(["k1", "k1", "k1", "other"]),
    is_empty=st.booleans(),
    signature=st.sampled_from(["", "", "good", "bad"]),
    is_answer=st.booleans(),
)
ORDERS = st.lists(UPDATES, max_size=14).flatmap(lambda update: st.permutations(update + update[:3]))


class SharedSystem:
    """A workshop that outlives the examples, each of which has a task of its own."""

    def __init__(self, runner: asyncio.Runner, system: TaskSystem) -> None:
        self.runner = runner
        self.system = system
        self._count = 0

    async def new_task(self) -> tuple[Task, str]:
        """A task that Kling has taken."""
        self._count += 1
        system, token = self.system, f"token-{self._count}"
        task = Task(
            id=system.ids.new("tsk"),
            origin=Origin.API,
            state=TaskState.SUBMITTED,
            endpoint=ENDPOINT,
            kling_id="k1",
            external_task_id=f"mine-{self._count}",
            token_hash=token_hash(token),
            created_at=system.clock.now(),
            updated_at=system.clock.now(),
            started_at=system.clock.now(),
            due_at=system.clock.now(),
        )
        return await system.store.tasks.add(task, b"{}"), token

    async def deliver(self, task: Task, token: str, update: Update) -> None:
        """Let one thing come."""
        body = update.body(task)
        if update.is_answer:
            await self.system.inbox.apply_answer(task.id, protocol.parse_status(body), body)
            return
        headers = []
        if update.signature:
            at = self.system.clock.now() - timedelta(minutes=0 if update.signature == "good" else 9)
            moment = str(int(at.timestamp()))
            signature = signing.sign([KEY], message_id="msg", at=at, body=body)
            headers = [("webhook-id", "msg"), ("webhook-timestamp", moment), ("webhook-signature", signature)]
        assert await self.system.inbox.accept_callback(token, headers, body)


@contextlib.contextmanager
def a_shared_system(folder: Path, verify: Verify, *secrets: Secret) -> Iterator[SharedSystem]:
    with asyncio.Runner() as runner:
        callbacks = CallbackSettings(verify=verify, signing_secrets=secrets)
        opening = a_task_system(folder, callbacks=callbacks, clock=IdleClock())
        system = runner.run(opening.__aenter__())
        try:
            yield SharedSystem(runner, system)
        finally:
            runner.run(opening.__aexit__(None, None, None))


@pytest.mark.soak("orders and repetitions of news", minutes=5)
@pytest.mark.parametrize("verify", Verify)
def test_no_order_or_repetition_ends_a_task_twice(tmp_path: Path, verify: Verify, record_counts: RecordCounts) -> None:
    record_counts(orders=EXAMPLES)
    with a_shared_system(tmp_path, verify, KEY) as shared:

        @settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow])
        @given(ORDERS)
        def holds(order: list[Update]) -> None:
            shared.runner.run(check_order(shared, order))

        holds()


async def check_order(shared: SharedSystem, order: list[Update]) -> None:
    system = shared.system
    task, token = await shared.new_task()
    states = [task.state]
    for update in order:
        await shared.deliver(task, token, update)
        system.clock.advance(timedelta(seconds=1))
        states.append((await system.task(task.id)).state)

    assert [RANK[state] for state in states] == sorted(RANK[state] for state in states)
    assert len({state for state in states if state.is_final}) <= 1
    events = (await system.store.catalog.events(task_id=task.id, limit=100)).items
    types = Counter(event.type for event in events)
    assert max(types.values(), default=0) <= 1
    ends = [name for name in ("task.succeed", "task.failed") if name in types]
    assert ends == ([f"task.{states[-1]}"] if states[-1].is_final else [])
    pushes = await system.store.catalog.pushes(task.id)
    assert len(pushes) == len(order)
    if (await system.task(task.id)).due_at is None:
        assert PushOutcome.PENDING not in {push.outcome for push in pushes}, "nobody is asked any more"
    promised = (await system.store.catalog.deliveries(task_id=task.id, limit=100)).items
    assert sorted(each.delivery.event_id for each in promised) == sorted(event.id for event in events)


@pytest.mark.soak("pushes against the API's answers", minutes=5)
@pytest.mark.parametrize("verify", [Verify.TERMINAL, Verify.ALWAYS])
def test_no_push_changes_an_end_reported_by_the_api(
    tmp_path: Path, verify: Verify, record_counts: RecordCounts
) -> None:
    record_counts(orders=EXAMPLES)
    with a_shared_system(tmp_path, verify) as shared:

        @settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow])
        @given(st.lists(UPDATES.filter(lambda update: not update.is_answer), max_size=12), st.data())
        def holds(pushes: list[Update], data: st.DataObject) -> None:
            truth = data.draw(st.sampled_from(["succeed", "failed"]))
            steps = ["submitted", "processing", truth]
            places = sorted(data.draw(st.lists(st.integers(0, len(pushes)), min_size=3, max_size=3)))
            order: list[Update] = list(pushes)
            for place, word in reversed(list(zip(places, steps, strict=True))):
                order.insert(place, Update(status=word, is_answer=True))
            shared.runner.run(check_order_against_api(shared, order, truth, verify))

        holds()


async def check_order_against_api(shared: SharedSystem, order: list[Update], truth: str, verify: Verify) -> None:
    system = shared.system
    task, token = await shared.new_task()
    for update in order:
        await shared.deliver(task, token, update)

    assert (await system.task(task.id)).state == truth
    events = (await system.store.catalog.events(task_id=task.id, limit=100)).items
    for event in events:
        printed = json.loads(event.envelope)["data"]
        if verify is Verify.ALWAYS or printed["status"] in ("succeed", "failed"):
            assert printed["verified"] == "api"
            assert printed.get("result", {}) == (IMAGES if printed["status"] == "succeed" else {})


def test_a_signed_end_resolves_the_pending_pushes(tmp_path: Path) -> None:
    with a_shared_system(tmp_path, Verify.ALWAYS, KEY) as shared:
        order = [Update(status=word) for word in ("processing", "succeed", "failed")]

        async def plays() -> list[PushOutcome]:
            task, token = await shared.new_task()
            for update in (*order, Update(status="succeed", signature="good")):
                await shared.deliver(task, token, update)
            return [push.outcome for push in await shared.system.store.catalog.pushes(task.id)]

        outcomes = shared.runner.run(plays())

        assert outcomes == [PushOutcome.STALE, PushOutcome.DUPLICATE, PushOutcome.FORGED, PushOutcome.APPLIED]
