"""Nothing is lost and nothing is paid twice, wherever a submit is cut short, and whatever answer got lost."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from harness.support import until
from harness.task_system import (
    ENDPOINT,
    JOB,
    FakeKling,
    IdleClock,
    Workshop,
    a_configuration,
    a_workshop,
    no_answer,
    refusal,
)

from receiver.domain.errors import KlingError, KlingUnreachable
from receiver.domain.model import Task, TaskState
from receiver.kling import endpoints
from receiver.settings import Dialect, KlingSettings
from receiver.store.sqlite.store import SqliteStore

GATEWAY = KlingSettings(base_url="https://gateway.example/kling")
WAIT = 65.0
"""Longer than Kling is given to finish what may be under way there: twice a call's time-out."""


async def relay(shop: Workshop, **fields: Any) -> None:
    """Hand a job in as a client of the gateway does."""
    endpoint = endpoints.resolve(ENDPOINT)
    assert endpoint is not None
    with contextlib.suppress(KlingError):
        await shop.submitter.relay(endpoint, json.dumps(JOB | fields).encode())


async def only_task(shop: Workshop) -> Task:
    (task,) = (await shop.store.tasks()).items
    return task


# -- a crash at every step


class Crash(BaseException):
    """The process is gone."""


class Fragile:
    """Stands before a store or a Kling; the process dies before or after a certain call, and no other is made."""

    _CALLS = frozenset({"add", "apply", "claim_tasks", "record", "create", "find", "query"})

    def __init__(self, real: Any, fuse: "Fuse") -> None:
        self._real = real
        self._fuse = fuse

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._real, name)
        if name not in self._CALLS:
            return real

        async def call(*args: Any, **kwargs: Any) -> Any:
            self._fuse.burn()
            result = await real(*args, **kwargs)
            self._fuse.burn()
            return result

        return call


class Fuse:
    """Burns down with each call's begin and end; at zero the process is gone."""

    def __init__(self, length: int) -> None:
        self.left = length

    def burn(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Crash


@contextlib.asynccontextmanager
async def a_fragile_workshop(folder: Path, kling: FakeKling, clock: IdleClock, fuse: Fuse) -> AsyncIterator[Workshop]:
    store = await SqliteStore.open(folder / "receiver.db")
    async with contextlib.aclosing(store):
        yield Workshop(Fragile(store, fuse), Fragile(kling, fuse), a_configuration(), clock)  # type: ignore[arg-type] # it is one


async def work_until_it_dies(shop: Workshop, fuse: Fuse) -> None:
    """Hand jobs in on both ways while all parts work."""
    stop = asyncio.Event()
    parts = [part.run(stop) for part in (shop.recovery, shop.reconciler, shop.submitter)]
    works = [asyncio.create_task(part) for part in parts]
    jobs = [asyncio.create_task(job) for job in (relay(shop), shop.submit(), shop.submit())]

    def under_way() -> list[asyncio.Task[Any]]:
        return [*shop.submitter._owned, *shop.recovery._looking.values(), *shop.reconciler._asking.values()]

    def is_over() -> bool:
        is_idle = shop.clock.idle == len(works) and not under_way() and all(job.done() for job in jobs)
        return fuse.left < 0 or is_idle

    await until(is_over, within=30, every=0.001)
    left = [*works, *jobs, *under_way()]
    for work in left:
        work.cancel()
    await asyncio.gather(*left, return_exceptions=True)


@pytest.mark.parametrize("fault", [None, no_answer(), refusal(500, 5000, creates=True)], ids=["well", "lost", "5000"])
async def test_wherever_the_process_dies_each_intent_is_made_once_and_none_twice(
    tmp_path: Path, fault: KlingError | None
) -> None:
    length, was_cut = 0, True
    while was_cut:
        clock = IdleClock()
        kling, fuse = FakeKling(clock), Fuse(length)
        kling.create_faults, kling.makes_anyway = [fault], fault is not None
        async with a_fragile_workshop(tmp_path / str(length), kling, clock, fuse) as shop:
            await work_until_it_dies(shop, fuse)
        was_cut = fuse.left < 0

        async with a_workshop(tmp_path / str(length), kling=kling, clock=clock) as shop, shop.working():
            await shop.passes(2 * WAIT, step=10)
            tasks = (await shop.store.tasks()).items

        sent = [task for task in tasks if task.state is not TaskState.REJECTED]
        assert {task.state for task in sent} <= {TaskState.SUBMITTED}, length
        assert {task.kling_id: task.external_task_id for task in sent} == {
            made.id: made.external_task_id for made in kling.made.values()
        }, length
        assert all(task.origin == "gateway" for task in tasks if task not in sent)
        length += 1
    assert length > 12  # every call to the store and to Kling is a place to die in


# -- answers that got lost


@pytest.mark.parametrize(
    "error",
    [refusal(500, 5000, creates=True), refusal(504, 5002, creates=True), no_answer(), refusal(502, None, creates=True)],
    ids=["5000", "5002", "no answer", "502"],
)
async def test_what_was_made_without_a_clear_answer_is_found_and_bound(tmp_path: Path, error: KlingError) -> None:
    async with a_workshop(tmp_path) as shop, shop.working():
        shop.kling.create_faults, shop.kling.makes_anyway = [error], True

        task = await shop.submit()
        assert task.state is TaskState.SUBMITTING
        await shop.passes(2)

        assert (await shop.task(task.id)).kling_id == "k1"
        assert len(shop.kling.creates) == 1


async def test_what_was_not_made_is_sent_again_only_when_kling_has_had_its_time(tmp_path: Path) -> None:
    async with a_workshop(tmp_path) as shop, shop.working():
        shop.kling.create_faults = [no_answer()]
        task = await shop.submit()

        await shop.passes(59)
        assert len(shop.kling.creates) == 1
        await shop.passes(3)

        assert shop.kling.creates == [task.id, task.id]
        assert (await shop.task(task.id)).state is TaskState.SUBMITTED
        assert len(shop.kling.finds) < 15


async def test_a_gateway_clients_task_is_never_sent_for_it(tmp_path: Path) -> None:
    async with a_workshop(tmp_path) as shop, shop.working():
        shop.kling.create_faults = [no_answer()]
        await relay(shop)

        await shop.passes(WAIT)

        task = await only_task(shop)
        assert task.state is TaskState.REJECTED
        assert "Send it again" in task.message
        assert len(shop.kling.creates) == 1
        assert await shop.types() == ["task.rejected"]


async def test_a_duplicate_id_on_a_resend_means_that_the_first_was_made_and_it_is_bound(tmp_path: Path) -> None:
    async with a_workshop(tmp_path) as shop, shop.working():
        shop.kling.create_faults = [no_answer()]
        task = await shop.submit()
        await shop.passes(50)
        # The first create comes through at last, between the look-up that denies it and the second create.
        shop.kling.find_fault = None
        late = shop.kling

        class Late(FakeKling):
            async def find(self, endpoint: str, external_task_id: str) -> Any:
                found = await FakeKling.find(late, endpoint, external_task_id)
                if found is None and late.clock.now() >= task.created_at.replace(minute=1):
                    late.make(json.dumps({"external_task_id": task.id}).encode())
                return found

        shop.recovery._kling = Late(shop.clock)

        await shop.passes(15)

        assert shop.kling.creates == [task.id, task.id]
        assert list(shop.kling.made) == ["k1"]
        assert (await shop.task(task.id)).kling_id == "k1"


async def test_a_duplicate_id_at_the_first_attempt_is_the_clients_mistake(tmp_path: Path) -> None:
    async with a_workshop(tmp_path) as shop, shop.working():
        first = await shop.submit(body=JOB | {"external_task_id": "mine"})

        second = await shop.submit(body=JOB | {"external_task_id": "mine"})

        assert (first.state, second.state) == (TaskState.SUBMITTED, TaskState.REJECTED)
        assert "already exists" in second.message


async def test_an_older_task_of_the_same_external_id_is_not_taken_for_the_lost_one(tmp_path: Path) -> None:
    async with a_workshop(tmp_path) as shop, shop.working():
        first = await shop.submit(body=JOB | {"external_task_id": "mine"})
        shop.kling.create_faults = [no_answer()]
        second = await shop.submit(body=JOB | {"external_task_id": "mine"})

        await shop.passes(WAIT)

        assert (await shop.task(first.id)).kling_id == "k1"
        ended = await shop.task(second.id)
        assert (ended.state, ended.kling_id) == (TaskState.REJECTED, None)
        assert len(shop.kling.made) == 1


async def test_while_kling_cannot_be_asked_nothing_is_sent_again_and_look_ups_get_rarer(tmp_path: Path) -> None:
    async with a_workshop(tmp_path) as shop, shop.working():
        shop.kling.create_faults, shop.kling.makes_anyway = [no_answer()] * 5, True
        tasks = [await shop.submit() for _ in range(1)]
        shop.kling.find_fault = KlingUnreachable("Kling cannot be reached.")

        await shop.passes(3600, step=10)
        assert len(shop.kling.finds) < 100
        assert len(shop.kling.creates) == 1
        shop.kling.find_fault = None
        await shop.passes(61)

        assert (await shop.task(tasks[0].id)).state is TaskState.SUBMITTED


async def test_a_task_that_can_never_be_looked_up_is_given_up_aloud(tmp_path: Path) -> None:
    async with a_workshop(tmp_path) as shop, shop.working():
        shop.kling.create_faults, shop.kling.makes_anyway = [no_answer()], True
        task = await shop.submit()
        shop.kling.find_fault = KlingUnreachable("Kling cannot be reached.")

        await shop.passes(49 * 3600, step=300)

        assert (await shop.task(task.id)).state is TaskState.EXPIRED
        assert len(await shop.alerts("submit_unknown")) == 1


# -- gateways that drop the external id


async def test_a_gateway_that_cannot_look_up_leaves_the_task_unknown_and_says_so(tmp_path: Path) -> None:
    async with a_workshop(tmp_path, kling_settings=GATEWAY) as shop, shop.working():
        shop.kling.create_faults, shop.kling.makes_anyway = [no_answer()], True
        shop.kling.find_fault = refusal(404, None, "page not found")
        task = await shop.submit(label="the cat")

        await shop.passes(WAIT)

        ended = await shop.task(task.id)
        assert ended.state is TaskState.EXPIRED
        assert ended.message.startswith("unknown: ")
        assert len(shop.kling.creates) == 1
        (alert,) = await shop.alerts("submit_unknown")
        assert alert["task"]["id"] == task.id
        assert alert["task"]["label"] == "the cat"
        assert "console" in alert["remedy"]
        assert await shop.types() == ["task.expired", "alert.submit_unknown"]


async def test_the_denial_of_a_gateway_that_drops_ids_is_not_believed(tmp_path: Path) -> None:
    async with a_workshop(tmp_path, kling_settings=GATEWAY) as shop, shop.working():
        shop.kling.drops_ids = True
        await shop.submit()
        shop.kling.create_faults, shop.kling.makes_anyway = [no_answer()], True
        lost = await shop.submit()

        await shop.passes(WAIT)

        assert (await shop.task(lost.id)).state is TaskState.EXPIRED
        assert len(shop.kling.creates) == 2
        assert len(await shop.alerts("submit_unknown")) == 1


async def test_the_denial_of_an_official_looking_kling_that_drops_ids_is_not_believed_either(tmp_path: Path) -> None:
    async with a_workshop(tmp_path) as shop, shop.working():
        shop.kling.drops_ids = True
        await shop.submit()
        shop.kling.create_faults, shop.kling.makes_anyway = [no_answer()], True
        lost = await shop.submit()

        await shop.passes(WAIT)

        assert (await shop.task(lost.id)).state is TaskState.EXPIRED
        assert len(shop.kling.creates) == 2


async def test_the_denial_of_a_gateway_that_keeps_ids_is_believed(tmp_path: Path) -> None:
    async with a_workshop(tmp_path, kling_settings=GATEWAY) as shop, shop.working():
        await shop.submit()
        shop.kling.create_faults = [no_answer()]
        lost = await shop.submit()

        await shop.passes(WAIT)

        assert (await shop.task(lost.id)).state is TaskState.SUBMITTED
        assert await shop.alerts("submit_unknown") == []


@pytest.mark.parametrize("dialect", Dialect)
@pytest.mark.parametrize(
    "base_url",
    ["https://gateway.example/kling", "http://127.0.0.1:8790", "https://klingai.com.example", "https://notklingai.com"],
)
async def test_the_first_denial_ever_of_anybody_but_kling_is_not_believed_however_it_is_spoken_to(
    tmp_path: Path, base_url: str, dialect: Dialect
) -> None:
    gateway = KlingSettings(base_url=base_url, dialect=dialect)
    async with a_workshop(tmp_path, kling_settings=gateway) as shop, shop.working():
        shop.kling.create_faults, shop.kling.makes_anyway, shop.kling.drops_ids = [no_answer()], True, True
        task = await shop.submit()

        await shop.passes(WAIT)

        assert (await shop.task(task.id)).state is TaskState.EXPIRED
        assert len(shop.kling.made) == 1
        assert len(await shop.alerts("submit_unknown")) == 1


async def test_a_gateways_client_is_not_told_to_send_again_what_a_gateway_denies_for_the_first_time(
    tmp_path: Path,
) -> None:
    async with a_workshop(tmp_path, kling_settings=GATEWAY) as shop, shop.working():
        shop.kling.create_faults = [no_answer()]
        await relay(shop)

        await shop.passes(WAIT)

        assert (await only_task(shop)).state is TaskState.EXPIRED
        assert len(await shop.alerts("submit_unknown")) == 1


@pytest.mark.parametrize("dialect", Dialect)
@pytest.mark.parametrize("host", ["api-singapore.klingai.com", "api-beijing.klingai.com"])
async def test_klings_own_first_denial_ever_is_believed(tmp_path: Path, host: str, dialect: Dialect) -> None:
    kling = KlingSettings(base_url=f"https://{host}", dialect=dialect)
    async with a_workshop(tmp_path, kling_settings=kling) as shop, shop.working():
        shop.kling.create_faults = [no_answer()]
        task = await shop.submit()

        await shop.passes(WAIT)

        assert shop.kling.creates == [task.id, task.id]
        assert (await shop.task(task.id)).state is TaskState.SUBMITTED


@pytest.mark.parametrize("is_made", [False, True], ids=["not made", "made without our id"])
async def test_where_all_that_is_listed_is_known_a_denial_is_believed(tmp_path: Path, *, is_made: bool) -> None:
    local = KlingSettings(base_url="http://127.0.0.1:8790")
    async with a_workshop(tmp_path, kling_settings=local) as shop, shop.working():
        shop.kling.create_faults, shop.kling.makes_anyway, shop.kling.drops_ids = [no_answer()], is_made, True
        task = await shop.submit()

        await shop.passes(WAIT)

        assert shop.kling.creates == [task.id] * (1 if is_made else 2)
        assert len(shop.kling.made) == 1
        assert (await shop.task(task.id)).state is (TaskState.EXPIRED if is_made else TaskState.SUBMITTED)


async def test_that_ids_are_kept_at_another_endpoint_proves_nothing(tmp_path: Path) -> None:
    async with a_workshop(tmp_path, kling_settings=GATEWAY) as shop, shop.working():
        await shop.submit(endpoint="images/generations", body={"prompt": "a cat"})
        shop.kling.create_faults, shop.kling.makes_anyway, shop.kling.drops_ids = [no_answer()], True, True
        lost = await shop.submit()

        await shop.passes(WAIT)

        assert (await shop.task(lost.id)).state is TaskState.EXPIRED
        assert len(shop.kling.made) == 2


async def test_a_callback_while_the_answer_is_lost_tells_which_task_it_is(tmp_path: Path) -> None:
    async with a_workshop(tmp_path, kling_settings=GATEWAY) as shop, shop.working():
        shop.kling.drops_ids, shop.kling.makes_anyway = True, True
        shop.kling.create_faults = [no_answer()]
        shop.kling.find_fault = refusal(404, None)
        task = await shop.submit()
        made = shop.kling.made["k1"]
        made.status = "processing"

        assert await shop.push(made.token, made.told())
        await shop.passes(WAIT)

        bound = await shop.task(task.id)
        assert (bound.kling_id, bound.state) == ("k1", TaskState.PROCESSING)
        assert await shop.alerts("submit_unknown") == []
        assert len(shop.kling.creates) == 1


async def test_a_task_given_up_as_unknown_still_comes_to_its_end_by_its_callback(tmp_path: Path) -> None:
    async with a_workshop(tmp_path, kling_settings=GATEWAY) as shop, shop.working():
        shop.kling.drops_ids, shop.kling.makes_anyway = True, True
        shop.kling.create_faults = [no_answer()]
        shop.kling.find_fault = refusal(404, None)
        task = await shop.submit()
        await shop.passes(WAIT)
        made = shop.kling.made["k1"]

        assert await shop.push(made.token, shop.kling.end(made))
        await shop.settles()

        ended = await shop.task(task.id)
        assert (ended.state, ended.kling_id) == (TaskState.SUCCEED, "k1")
        assert await shop.types(task.id) == ["task.expired", "alert.submit_unknown", "task.succeed"]


async def test_a_task_about_to_be_sent_again_is_looked_up_instead_when_its_callback_comes(tmp_path: Path) -> None:
    async with a_workshop(tmp_path) as shop:
        shop.kling.create_faults, shop.kling.makes_anyway = [no_answer()], True
        task = await shop.submit()
        await shop.outcomes.queued(task, "Kling never got it", until=shop.clock.now())
        made = shop.kling.made["k1"]

        await shop.push(made.token, shop.kling.end(made))
        async with shop.working():
            await shop.passes(10)

        assert (await shop.task(task.id)).state is TaskState.SUCCEED
        assert len(shop.kling.creates) == 1


async def test_a_clock_that_is_set_back_keeps_nobody_from_looking_a_task_up(tmp_path: Path) -> None:
    async with a_workshop(tmp_path) as shop, shop.working():
        shop.kling.create_faults, shop.kling.makes_anyway = [no_answer()], True
        shop.kling.find_fault = KlingUnreachable("Kling cannot be reached.")
        task = await shop.submit()
        await shop.passes(600, step=10)
        shop.kling.find_fault = None

        shop.clock.advance(timedelta(days=-1))
        shop.bells.tasks.ring()
        await shop.passes(65, step=5)

        assert (await shop.task(task.id)).state is TaskState.SUBMITTED
        assert len(shop.kling.made) == 1
