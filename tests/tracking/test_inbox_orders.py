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
from chaos.parameters import number
from harness.soak_report import Tell
from harness.task_system import ENDPOINT, IMAGES, IdleClock, Workshop, a_workshop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from receiver.domain import signing
from receiver.domain.model import Json, Origin, PushOutcome, Secret, Task, TaskState
from receiver.kling import protocol
from receiver.settings import CallbackSettings, Verify
from receiver.tracking.inbox import token_hash

EXAMPLES = number("EXAMPLES", 100)
KEY = Secret("whsec_" + base64.b64encode(b"the-key-of-these-tests").decode())
RANK = {"awaiting": 0, "submitted": 1, "processing": 2, "succeed": 3, "failed": 3}


@dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """One thing that comes: a push, signed well, wrongly or not at all, or an answer of the API."""

    word: str
    kling_id: str = "k1"
    hollow: bool = False
    signature: str = ""
    is_answer: bool = False

    def body(self, task: Task) -> bytes:
        told: Json = {"task_id": self.kling_id, "task_status": self.word}
        if self.kling_id == "k1":
            told["task_info"] = {"external_task_id": task.external_task_id}
        if self.word == "succeed" and not self.hollow:
            told["task_result"] = IMAGES
        return json.dumps(told).encode()


WORDS = st.sampled_from(["submitted", "processing", "succeed", "failed", "simmering"])
NEWS = st.builds(
    News,
    word=WORDS,
    kling_id=st.sampled_from(["k1", "k1", "k1", "other"]),
    hollow=st.booleans(),
    signature=st.sampled_from(["", "", "good", "bad"]),
    is_answer=st.booleans(),
)
ORDERS = st.lists(NEWS, max_size=14).flatmap(lambda news: st.permutations(news + news[:3]))


class Bench:
    """A workshop that outlives the examples, each of which has a task of its own."""

    def __init__(self, runner: asyncio.Runner, shop: Workshop) -> None:
        self.runner = runner
        self.shop = shop
        self._count = 0

    async def new_task(self) -> tuple[Task, str]:
        """A task that Kling has taken."""
        self._count += 1
        shop, token = self.shop, f"token-{self._count}"
        task = Task(
            id=shop.ids.new("tsk"),
            origin=Origin.API,
            state=TaskState.SUBMITTED,
            endpoint=ENDPOINT,
            kling_id="k1",
            external_task_id=f"mine-{self._count}",
            token_hash=token_hash(token),
            created_at=shop.clock.now(),
            updated_at=shop.clock.now(),
            started_at=shop.clock.now(),
            due_at=shop.clock.now(),
        )
        return await shop.store.add(task, b"{}"), token

    async def comes(self, task: Task, token: str, news: News) -> None:
        """Let one thing come."""
        body = news.body(task)
        if news.is_answer:
            await self.shop.inbox.learn(task.id, protocol.read(body), body)
            return
        headers = []
        if news.signature:
            at = self.shop.clock.now() - timedelta(minutes=0 if news.signature == "good" else 9)
            moment = str(int(at.timestamp()))
            signature = signing.sign([KEY], message_id="msg", at=at, body=body)
            headers = [("webhook-id", "msg"), ("webhook-timestamp", moment), ("webhook-signature", signature)]
        assert await self.shop.inbox.receive(token, headers, body)


@contextlib.contextmanager
def a_bench(folder: Path, verify: Verify, *secrets: Secret) -> Iterator[Bench]:
    with asyncio.Runner() as runner:
        callbacks = CallbackSettings(verify=verify, signing_secrets=secrets)
        opening = a_workshop(folder, callbacks=callbacks, clock=IdleClock())
        shop = runner.run(opening.__aenter__())
        try:
            yield Bench(runner, shop)
        finally:
            runner.run(opening.__aexit__(None, None, None))


@pytest.mark.soak("orders and repetitions of news", minutes=5)
@pytest.mark.parametrize("verify", Verify)
def test_no_order_and_no_repetition_makes_two_ends_or_an_event_twice(
    tmp_path: Path, verify: Verify, tell: Tell
) -> None:
    tell(orders=EXAMPLES)
    with a_bench(tmp_path, verify, KEY) as bench:

        @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
        @given(ORDERS)
        def holds(order: list[News]) -> None:
            bench.runner.run(play(bench, order))

        holds()


async def play(bench: Bench, order: list[News]) -> None:
    shop = bench.shop
    task, token = await bench.new_task()
    states = [task.state]
    for news in order:
        await bench.comes(task, token, news)
        shop.clock.advance(timedelta(seconds=1))
        states.append((await shop.task(task.id)).state)

    assert [RANK[state] for state in states] == sorted(RANK[state] for state in states)
    assert len({state for state in states if state.is_final}) <= 1
    events = (await shop.store.events(task_id=task.id, limit=100)).items
    types = Counter(event.type for event in events)
    assert max(types.values(), default=0) <= 1
    ends = [name for name in ("task.succeed", "task.failed") if name in types]
    assert ends == ([f"task.{states[-1]}"] if states[-1].is_final else [])
    pushes = await shop.store.pushes(task.id)
    assert len(pushes) == len(order)
    if (await shop.task(task.id)).due_at is None:
        assert PushOutcome.PENDING not in {push.outcome for push in pushes}, "nobody is asked any more"
    promised = (await shop.store.deliveries(task_id=task.id, limit=100)).items
    assert sorted(each.delivery.event_id for each in promised) == sorted(event.id for event in events)


@pytest.mark.soak("pushes against the API's answers", minutes=5)
@pytest.mark.parametrize("verify", [Verify.TERMINAL, Verify.ALWAYS])
def test_no_push_moves_the_end_that_the_api_tells_of(tmp_path: Path, verify: Verify, tell: Tell) -> None:
    tell(orders=EXAMPLES)
    with a_bench(tmp_path, verify) as bench:

        @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
        @given(st.lists(NEWS.filter(lambda news: not news.is_answer), max_size=12), st.data())
        def holds(pushes: list[News], data: st.DataObject) -> None:
            truth = data.draw(st.sampled_from(["succeed", "failed"]))
            steps = ["submitted", "processing", truth]
            places = sorted(data.draw(st.lists(st.integers(0, len(pushes)), min_size=3, max_size=3)))
            order: list[News] = list(pushes)
            for place, word in reversed(list(zip(places, steps, strict=True))):
                order.insert(place, News(word=word, is_answer=True))
            bench.runner.run(play_truly(bench, order, truth, verify))

        holds()


async def play_truly(bench: Bench, order: list[News], truth: str, verify: Verify) -> None:
    shop = bench.shop
    task, token = await bench.new_task()
    for news in order:
        await bench.comes(task, token, news)

    assert (await shop.task(task.id)).state == truth
    events = (await shop.store.events(task_id=task.id, limit=100)).items
    for event in events:
        said = json.loads(event.envelope)["data"]
        if verify is Verify.ALWAYS or said["status"] in ("succeed", "failed"):
            assert said["verified"] == "api"
            assert said.get("result", {}) == (IMAGES if said["status"] == "succeed" else {})


def test_a_signed_end_settles_the_pushes_that_waited_for_an_answer(tmp_path: Path) -> None:
    with a_bench(tmp_path, Verify.ALWAYS, KEY) as bench:
        order = [News(word=word) for word in ("processing", "succeed", "failed")]

        async def plays() -> list[PushOutcome]:
            task, token = await bench.new_task()
            for news in (*order, News(word="succeed", signature="good")):
                await bench.comes(task, token, news)
            return [push.outcome for push in await bench.shop.store.pushes(task.id)]

        outcomes = bench.runner.run(plays())

        assert outcomes == [PushOutcome.STALE, PushOutcome.DUPLICATE, PushOutcome.FORGED, PushOutcome.SETTLED]
