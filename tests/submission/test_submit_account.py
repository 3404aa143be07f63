"""Trouble with the account stops what it concerns and nothing else, is told once, and ends by itself when mended."""

import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from harness.support import FakeClock
from harness.task_system import JOB, FakeKling, IdleClock, Workshop, a_workshop, refusal

from receiver.domain.errors import KlingError
from receiver.domain.model import Json, Task, TaskState
from receiver.kling import endpoints
from receiver.kling.client import NOTHING_BESIDE, Answer, Beside

IMAGE, FILM, SOUND = "images/multi-image2image", "videos/text2video", "audio/text-to-audio"
Refuses = Callable[[str, Json], bool]


class Fussy(FakeKling):
    """Refuses with ``error`` those creates of which ``refuses`` says so, by endpoint and body."""

    def __init__(self, clock: FakeClock, error: KlingError, refuses: Refuses) -> None:
        super().__init__(clock)
        self.error = error
        self.refuses = refuses

    async def create(self, endpoint: str, content: bytes, *, beside: Beside = NOTHING_BESIDE) -> Answer:
        self.create_fault = self.error if self.refuses(endpoint, json.loads(content)) else None
        return await super().create(endpoint, content, beside=beside)


@contextlib.asynccontextmanager
async def a_shop_refused(folder: Path, error: KlingError, refuses: Refuses) -> AsyncIterator[Workshop]:
    clock = IdleClock()
    async with a_workshop(folder, kling=Fussy(clock, error, refuses), clock=clock) as shop, shop.working():
        yield shop


async def queue(shop: Workshop, count: int, endpoint: str, **body: object) -> list[Task]:
    return [await shop.submit(endpoint=endpoint, body=JOB | body) for _ in range(count)]


async def states(shop: Workshop, tasks: list[Task]) -> Counter[TaskState]:
    return Counter([(await shop.task(task.id)).state for task in tasks])


@pytest.mark.parametrize(
    ("status", "code", "word"),
    [
        (401, 1000, "key"), (401, 1001, "key"), (401, 1002, "region"), (429, 1100, "blocked"),
        (429, 1101, "arrears"), (429, 1304, "address"),
    ],
)  # fmt: skip
async def test_the_account_in_trouble_stops_all_submits_and_no_callback_and_is_told_once_with_its_remedy(
    tmp_path: Path, status: int, code: int, word: str
) -> None:
    async with a_workshop(tmp_path) as shop, shop.working():
        before = await shop.submit()
        shop.kling.create_fault = refusal(status, code, "sorry")
        waiting = await queue(shop, 10, IMAGE) + await queue(shop, 10, FILM) + await queue(shop, 5, SOUND)
        made = shop.kling.made["k1"]
        await shop.push(made.token, shop.kling.end(made))
        await shop.passes(1800, step=10)

        assert (await shop.task(before.id)).state is TaskState.SUCCEED
        assert await states(shop, waiting) == {TaskState.QUEUED: 25}
        assert len(shop.kling.creates) <= 1 + 1800 / 60 + 10
        (alert,) = await shop.alerts("account")
        assert (alert["kling_code"], alert["concerns"]) == (code, {"reach": "account", "name": ""})
        assert word in alert["remedy"]
        assert "go by themselves" in alert["remedy"]

        shop.kling.create_fault = None
        await shop.passes(125, step=5)
        assert await states(shop, waiting) == {TaskState.SUBMITTED: 25}
        (recovered,) = await shop.alerts("account_recovered")
        assert recovered["concerns"] == alert["concerns"]


async def test_a_pack_that_is_used_up_keeps_its_own_tasks_in_order_and_lets_others_go(tmp_path: Path) -> None:
    async with a_shop_refused(tmp_path, refusal(429, 1102, "used up"), lambda endpoint, _: endpoint == FILM) as shop:
        films = await queue(shop, 20, FILM)
        images, sounds = await queue(shop, 10, IMAGE), await queue(shop, 5, SOUND)
        await shop.passes(1800, step=10)

        assert await states(shop, films) == {TaskState.QUEUED: 20}
        assert await states(shop, images) == {TaskState.SUBMITTED: 10}
        assert await states(shop, sounds) == {TaskState.SUBMITTED: 5}
        assert len(shop.kling.creates) - 15 <= 1800 / 60 + 10
        assert "used up" in (await shop.task(films[-1].id)).message
        (alert,) = await shop.alerts("account")
        assert alert["concerns"] == {"reach": "pack", "name": "video"}

        shop.kling.refuses, tried = lambda *_: False, len(shop.kling.creates)
        await shop.passes(65, step=5)
        assert await states(shop, films) == {TaskState.SUBMITTED: 20}
        assert shop.kling.creates[tried:] == [task.id for task in films]
        assert len(await shop.alerts("account_recovered")) == len(await shop.alerts("account")) == 1


async def test_a_right_that_is_missing_stops_the_model_it_is_for_and_lets_others_go(tmp_path: Path) -> None:
    async with a_shop_refused(
        tmp_path, refusal(403, 1103, "no right"), lambda _, body: body.get("model_name") == "kling-v9"
    ) as shop:
        first = await queue(shop, 20, FILM, model_name="kling-v9")
        old, images = await queue(shop, 10, FILM, model_name="kling-v1"), await queue(shop, 5, IMAGE)
        await shop.passes(1800, step=10)

        assert await states(shop, first) == {TaskState.QUEUED: 20}
        assert await states(shop, old) == {TaskState.SUBMITTED: 10}
        assert await states(shop, images) == {TaskState.SUBMITTED: 5}
        assert len(shop.kling.creates) - 15 <= 1800 / 60 + 10
        assert "no right" in (await shop.task(first[-1].id)).message
        (alert,) = await shop.alerts("account")
        assert alert["concerns"] == {"reach": "resource", "name": f"{FILM} kling-v9"}
        assert "kling-v9" in alert["message"]

        shop.kling.refuses = lambda *_: False
        await shop.passes(65, step=5)
        assert await states(shop, first) == {TaskState.SUBMITTED: 20}
        assert len(await shop.alerts("account_recovered")) == len(await shop.alerts("account")) == 1


async def test_a_403_without_klings_code_rejects_the_task(tmp_path: Path) -> None:
    async with a_workshop(tmp_path) as shop, shop.working():
        shop.kling.create_fault = refusal(403, None, "forbidden")

        refused = await shop.submit()

        assert refused.state is TaskState.REJECTED
        assert await shop.alerts("account") == []


async def test_the_gateway_never_queues_and_what_it_meets_counts(tmp_path: Path) -> None:
    image = endpoints.resolve(IMAGE)
    assert image is not None
    async with a_workshop(tmp_path) as shop, shop.working():
        shop.kling.create_fault = refusal(429, 1102)
        answers = [await shop.submitter.relay(image, json.dumps(JOB).encode()) for _ in range(3)]
        assert [answer.error is not None for answer in answers] == [True] * 3
        assert len(await shop.alerts("account")) == 1
        assert {task.state for task in (await shop.store.tasks()).items} == {TaskState.REJECTED}

        waits = await shop.submit(endpoint=IMAGE)
        assert waits.state is TaskState.QUEUED
        shop.kling.create_fault = None
        answer = await shop.submitter.relay(image, json.dumps(JOB).encode())
        await shop.settles()
        assert answer.error is None
        assert (await shop.task(waits.id)).state is TaskState.SUBMITTED
        assert len(await shop.alerts("account_recovered")) == 1


@pytest.mark.parametrize(("status", "code"), [(401, 1002), (429, 1101), (429, 1102), (403, 1103)])
async def test_restarts_in_trouble_are_no_storm_and_no_second_alert_and_its_end_is_told(
    tmp_path: Path, status: int, code: int
) -> None:
    async with a_workshop(tmp_path) as shop, shop.working():
        shop.kling.create_fault = refusal(status, code)
        waiting = await queue(shop, 30, IMAGE)
        await shop.passes(60, step=5)

    kling, tried = shop.kling, len(shop.kling.creates)
    for _ in range(5):
        async with a_workshop(tmp_path, kling=kling, clock=shop.clock) as shop, shop.working():
            await shop.passes(4)
            assert len(kling.creates) - tried <= 3
            tried = len(kling.creates)
            assert len(await shop.alerts("account")) == 1

    kling.create_fault = None
    async with a_workshop(tmp_path, kling=kling, clock=shop.clock) as shop, shop.working():
        await shop.passes(130, step=5)
        assert await states(shop, waiting) == {TaskState.SUBMITTED: 30}
        assert (len(await shop.alerts("account")), len(await shop.alerts("account_recovered"))) == (1, 1)


async def test_restarts_while_questions_meet_trouble_tell_it_once_and_stop_no_submit(tmp_path: Path) -> None:
    async with a_workshop(tmp_path) as shop, shop.working():
        await shop.submit()
        shop.kling.query_fault = refusal(401, 1002)
        await shop.passes(300, step=10)

    async with a_workshop(tmp_path, kling=shop.kling, clock=shop.clock) as shop, shop.working():
        await shop.passes(300, step=10)
        assert len(await shop.alerts("account")) == 1
        assert (await shop.submit()).state is TaskState.SUBMITTED


async def test_another_reason_is_told_as_well(tmp_path: Path) -> None:
    async with a_workshop(tmp_path) as shop, shop.working():
        shop.kling.create_fault = refusal(429, 1304)
        await shop.submit()
        await shop.passes(60, step=5)
        shop.kling.create_fault = refusal(429, 1101)
        await shop.passes(300, step=5)

        assert [alert["kling_code"] for alert in await shop.alerts("account")] == [1304, 1101]
