"""An endpoint never heard of may make no task at all: nothing is left behind, sent again or raised an alarm about."""

import json
from pathlib import Path
from typing import Any

import pytest
from harness.task_system import FakeKling, IdleClock, Made, Workshop, a_workshop, no_answer

from receiver.domain.errors import KlingError, KlingUncertain
from receiver.domain.model import Reading, Task, TaskState
from receiver.kling import endpoints, protocol
from receiver.kling.client import NOTHING_BESIDE, Answer, Beside
from receiver.submission.request import Marks

UNHEARD_OF = "general/something-new"
LISTED = "images/generations"
SPOKEN = b'{"code":0,"message":"SUCCEED","request_id":"r","data":{"text":"a cat"}}'
SOUND = b"ID3\x03 no JSON"


class Synchronous(FakeKling):
    """A Kling that answers creates at once with what was asked for, and knows no task."""

    def __init__(self, clock: IdleClock, body: bytes = SPOKEN) -> None:
        super().__init__(clock)
        self.body = body

    async def create(self, endpoint: str, content: bytes, *, beside: Beside = NOTHING_BESIDE) -> Answer:
        del endpoint, beside
        self.creates.append(json.loads(content)["external_task_id"])
        self.last = content
        if self.create_fault is not None:
            raise self.create_fault
        if not self.body.startswith(b"{"):
            error = KlingUncertain("Kling answered HTTP 200 with something that is not JSON.")
            return Answer(status=200, headers={}, body=self.body, error=error)
        return Answer(status=200, headers={}, body=self.body, reading=protocol.read(self.body))


async def relayed(shop: Workshop, path: str = UNHEARD_OF, **marks: Any) -> tuple[Answer, Task]:
    endpoint = endpoints.resolve(path)
    assert endpoint is not None
    answer = await shop.submitter.relay(endpoint, b'{"prompt": "a cat"}', Marks(**marks))
    (task,) = (await shop.store.tasks()).items
    return answer, task


@pytest.mark.parametrize("body", [SPOKEN, SOUND], ids=["an object", "no JSON"])
async def test_a_client_of_the_gateway_has_its_answer_and_nobody_waits(tmp_path: Path, body: bytes) -> None:
    clock = IdleClock()
    async with a_workshop(tmp_path, kling=(kling := Synchronous(clock, body)), clock=clock) as shop, shop.working():
        answer, task = await relayed(shop)
        await shop.passes(3 * 24 * 3600, step=3600)

        assert answer.body == body
        task = await shop.task(task.id)
        assert (task.state, task.due_at) == (TaskState.AWAITING, None)
        assert "names no task" in task.message
        assert (len(kling.creates), kling.finds, kling.queries) == (1, [], [])
        assert await shop.types() == []
        assert await shop.store.occupancy() == {}
        assert task.expires_at is not None


async def test_a_batch_that_a_client_of_the_gateway_put_it_into_does_not_wait_for_it(tmp_path: Path) -> None:
    clock = IdleClock()
    async with a_workshop(tmp_path, kling=Synchronous(clock), clock=clock) as shop, shop.working():
        answer, task = await relayed(shop, batch="spring", batch_size=1)
        await shop.settles()

        assert answer.body == SPOKEN
        assert (await shop.task(task.id)).state is TaskState.REJECTED
        assert await shop.types() == ["task.rejected", "batch.finished"]


async def test_whoever_waits_for_a_result_is_told_that_there_is_none_with_what_kling_said(tmp_path: Path) -> None:
    clock = IdleClock()
    async with a_workshop(tmp_path, kling=(kling := Synchronous(clock)), clock=clock) as shop, shop.working():
        task = await shop.submit(endpoint=UNHEARD_OF, body={"prompt": "a cat"})
        await shop.passes(300)

        assert task.state is TaskState.REJECTED
        assert len(kling.creates) == 1
        (event,) = (await shop.store.events(task_id=task.id)).items
        assert json.loads(event.envelope)["type"] == "task.rejected"
        assert event.body == SPOKEN


async def test_a_callback_that_comes_all_the_same_counts(tmp_path: Path) -> None:
    clock = IdleClock()
    async with a_workshop(tmp_path, kling=(kling := Synchronous(clock)), clock=clock) as shop, shop.working():
        _, task = await relayed(shop)
        made = kling.make(kling.last)

        assert await shop.push(made.token, kling.end(made))
        await shop.passes(10)

        task = await shop.task(task.id)
        assert (task.state, task.kling_id) == (TaskState.SUCCEED, made.id)
        assert await shop.types() == ["task.succeed"]


async def test_a_callback_that_came_before_the_nameless_answer_names_the_task(tmp_path: Path) -> None:
    class Hasty(Synchronous):
        async def create(self, endpoint: str, content: bytes, *, beside: Beside = NOTHING_BESIDE) -> Answer:
            made = self.make(content)
            await shop.push(made.token, self.tell(made))
            return await super().create(endpoint, content, beside=beside)

        def tell(self, made: Made) -> bytes:
            made.status = "processing"
            return made.told()

    clock = IdleClock()
    async with a_workshop(tmp_path, kling=(kling := Hasty(clock)), clock=clock) as shop, shop.working():
        _, task = await relayed(shop)
        kling.end(kling.made["k1"])
        await shop.passes(120)

        task = await shop.task(task.id)
        assert (task.state, task.kling_id) == (TaskState.SUCCEED, "k1")


async def test_an_endpoint_that_is_listed_is_still_looked_up(tmp_path: Path) -> None:
    clock = IdleClock()
    async with a_workshop(tmp_path, kling=(kling := Synchronous(clock)), clock=clock) as shop, shop.working():
        _, task = await relayed(shop, LISTED)

        assert task.state is TaskState.SUBMITTING
        kling.make(kling.last)
        await shop.passes(10)

        assert (await shop.task(task.id)).state is TaskState.SUBMITTED


async def test_what_may_have_been_made_at_an_endpoint_never_heard_of_is_not_sent_again(tmp_path: Path) -> None:
    clock = IdleClock()
    async with a_workshop(tmp_path, kling=(kling := Synchronous(clock)), clock=clock) as shop, shop.working():
        kling.create_fault = no_answer()
        task = await shop.submit(endpoint=UNHEARD_OF, body={"prompt": "a cat"})
        kling.create_fault = None
        await shop.passes(300)

        assert (await shop.task(task.id)).state is TaskState.EXPIRED
        assert len(kling.creates) == 1
        assert len(await shop.alerts("submit_unknown")) == 1


def test_an_answer_tells_whether_the_call_succeeded_whatever_its_body_says() -> None:
    error = KlingError("no")

    assert Answer(status=200, headers={}, body=b"", error=error).is_success
    assert not Answer(status=429, headers={}, body=b"", reading=Reading(state=None)).is_success
