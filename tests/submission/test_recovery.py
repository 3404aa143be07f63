"""Nothing is lost and nothing is paid twice, wherever a submit is cut short, and whatever answer got lost."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from harness.support import wait_until
from harness.task_system import (
    ENDPOINT,
    JOB,
    FakeKling,
    IdleClock,
    TaskSystem,
    a_configuration,
    a_task_system,
    no_response,
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


async def submit_by_gateway(system: TaskSystem, **fields: Any) -> None:
    """Hand a job in as a client of the gateway does."""
    endpoint = endpoints.resolve(ENDPOINT)
    assert endpoint is not None
    with contextlib.suppress(KlingError):
        await system.submitter.submit_now(endpoint, json.dumps(JOB | fields).encode())


async def only_task(system: TaskSystem) -> Task:
    (task,) = (await system.store.tasks()).items
    return task


# -- a crash at every step


class Crash(BaseException):
    """The process is gone."""


class CrashingProxy:
    """Stands before a store or a Kling; the process dies before or after a certain call, and no other is made."""

    _CALLS = frozenset({"add", "apply", "claim_tasks", "add_events", "create", "find_by_external_id", "query"})

    def __init__(self, real: Any, counter: "CrashCounter") -> None:
        self._real = real
        self._counter = counter

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._real, name)
        if name not in self._CALLS:
            return real

        async def call(*args: Any, **kwargs: Any) -> Any:
            self._counter.count_down()
            result = await real(*args, **kwargs)
            self._counter.count_down()
            return result

        return call


class CrashCounter:
    """Burns down with each call's begin and end; at zero the process is gone."""

    def __init__(self, length: int) -> None:
        self.left = length

    def count_down(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Crash


@contextlib.asynccontextmanager
async def a_crashing_system(
    folder: Path, kling: FakeKling, clock: IdleClock, counter: CrashCounter
) -> AsyncIterator[TaskSystem]:
    store = await SqliteStore.open(folder / "receiver.db")
    async with contextlib.aclosing(store):
        yield TaskSystem(CrashingProxy(store, counter), CrashingProxy(kling, counter), a_configuration(), clock)  # type: ignore[arg-type] # it is one


async def run_until_crash(system: TaskSystem, counter: CrashCounter) -> None:
    """Hand jobs in on both ways while all parts work."""
    stop = asyncio.Event()
    parts = [part.run(stop) for part in (system.recovery, system.poller, system.submitter)]
    works = [asyncio.create_task(part) for part in parts]
    jobs = [asyncio.create_task(job) for job in (submit_by_gateway(system), system.submit(), system.submit())]

    def under_way() -> list[asyncio.Task[Any]]:
        return [*system.submitter._spawned, *system.recovery._in_flight.values(), *system.poller._in_flight.values()]

    def is_over() -> bool:
        is_idle = system.clock.idle_waiters == len(works) and not under_way() and all(job.done() for job in jobs)
        return counter.left < 0 or is_idle

    await wait_until(is_over, seconds=30, interval=0.001)
    left = [*works, *jobs, *under_way()]
    for work in left:
        work.cancel()
    await asyncio.gather(*left, return_exceptions=True)


@pytest.mark.parametrize("fault", [None, no_response(), refusal(500, 5000, creates=True)], ids=["well", "lost", "5000"])
async def test_wherever_the_process_dies_each_intent_is_made_once_and_none_twice(
    tmp_path: Path, fault: KlingError | None
) -> None:
    length, was_cut = 0, True
    while was_cut:
        clock = IdleClock()
        kling, counter = FakeKling(clock), CrashCounter(length)
        kling.create_faults, kling.create_despite_fault = [fault], fault is not None
        async with a_crashing_system(tmp_path / str(length), kling, clock, counter) as system:
            await run_until_crash(system, counter)
        was_cut = counter.left < 0

        async with a_task_system(tmp_path / str(length), kling=kling, clock=clock) as system, system.running():
            await system.advance(2 * WAIT, step=10)
            tasks = (await system.store.tasks()).items

        sent = [task for task in tasks if task.state is not TaskState.REJECTED]
        assert {task.state for task in sent} <= {TaskState.SUBMITTED}, length
        assert {task.kling_id: task.external_task_id for task in sent} == {
            kling_task.id: kling_task.external_task_id for kling_task in kling.tasks.values()
        }, length
        assert all(task.origin == "gateway" for task in tasks if task not in sent)
        length += 1
    assert length > 12  # every call to the store and to Kling is a place to die in


# -- answers that got lost


@pytest.mark.parametrize(
    "error",
    [
        refusal(500, 5000, creates=True),
        refusal(504, 5002, creates=True),
        no_response(),
        refusal(502, None, creates=True),
    ],
    ids=["5000", "5002", "no answer", "502"],
)
async def test_what_was_made_without_a_clear_answer_is_found_and_bound(tmp_path: Path, error: KlingError) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        system.kling.create_faults, system.kling.create_despite_fault = [error], True

        task = await system.submit()
        assert task.state is TaskState.SUBMITTING
        await system.advance(2)

        assert (await system.task(task.id)).kling_id == "k1"
        assert len(system.kling.create_ids) == 1


async def test_what_was_not_made_is_sent_again_only_when_kling_has_had_its_time(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        system.kling.create_faults = [no_response()]
        task = await system.submit()

        await system.advance(59)
        assert len(system.kling.create_ids) == 1
        await system.advance(3)

        assert system.kling.create_ids == [task.id, task.id]
        assert (await system.task(task.id)).state is TaskState.SUBMITTED
        assert len(system.kling.lookups) < 15


async def test_a_gateway_clients_task_is_never_sent_for_it(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        system.kling.create_faults = [no_response()]
        await submit_by_gateway(system)

        await system.advance(WAIT)

        task = await only_task(system)
        assert task.state is TaskState.REJECTED
        assert "Send it again" in task.message
        assert len(system.kling.create_ids) == 1
        assert await system.event_types() == ["task.rejected"]


async def test_a_duplicate_id_on_a_resend_means_that_the_first_was_made_and_it_is_bound(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        system.kling.create_faults = [no_response()]
        task = await system.submit()
        await system.advance(50)
        # The first create comes through at last, between the look-up that denies it and the second create.
        system.kling.lookup_fault = None
        late = system.kling

        class Late(FakeKling):
            async def find_by_external_id(self, endpoint: str, external_task_id: str) -> Any:
                found = await FakeKling.find_by_external_id(late, endpoint, external_task_id)
                if found is None and late.clock.now() >= task.created_at.replace(minute=1):
                    late.add_task(json.dumps({"external_task_id": task.id}).encode())
                return found

        system.recovery._kling = Late(system.clock)

        await system.advance(15)

        assert system.kling.create_ids == [task.id, task.id]
        assert list(system.kling.tasks) == ["k1"]
        assert (await system.task(task.id)).kling_id == "k1"


async def test_a_duplicate_id_at_the_first_attempt_is_the_clients_mistake(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        first = await system.submit(body=JOB | {"external_task_id": "mine"})

        second = await system.submit(body=JOB | {"external_task_id": "mine"})

        assert (first.state, second.state) == (TaskState.SUBMITTED, TaskState.REJECTED)
        assert "already exists" in second.message


async def test_an_older_task_of_the_same_external_id_is_not_taken_for_the_lost_one(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        first = await system.submit(body=JOB | {"external_task_id": "mine"})
        system.kling.create_faults = [no_response()]
        second = await system.submit(body=JOB | {"external_task_id": "mine"})

        await system.advance(WAIT)

        assert (await system.task(first.id)).kling_id == "k1"
        ended = await system.task(second.id)
        assert (ended.state, ended.kling_id) == (TaskState.REJECTED, None)
        assert len(system.kling.tasks) == 1


async def test_while_kling_cannot_be_asked_nothing_is_sent_again_and_look_ups_get_rarer(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        system.kling.create_faults, system.kling.create_despite_fault = [no_response()] * 5, True
        tasks = [await system.submit() for _ in range(1)]
        system.kling.lookup_fault = KlingUnreachable("Kling cannot be reached.")

        await system.advance(3600, step=10)
        assert len(system.kling.lookups) < 100
        assert len(system.kling.create_ids) == 1
        system.kling.lookup_fault = None
        await system.advance(61)

        assert (await system.task(tasks[0].id)).state is TaskState.SUBMITTED


async def test_a_task_that_can_never_be_looked_up_is_given_up_aloud(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        system.kling.create_faults, system.kling.create_despite_fault = [no_response()], True
        task = await system.submit()
        system.kling.lookup_fault = KlingUnreachable("Kling cannot be reached.")

        await system.advance(49 * 3600, step=300)

        assert (await system.task(task.id)).state is TaskState.EXPIRED
        assert len(await system.alerts("submit_unknown")) == 1


# -- gateways that drop the external id


async def test_a_gateway_that_cannot_look_up_leaves_the_task_unknown_and_says_so(tmp_path: Path) -> None:
    async with a_task_system(tmp_path, kling_settings=GATEWAY) as system, system.running():
        system.kling.create_faults, system.kling.create_despite_fault = [no_response()], True
        system.kling.lookup_fault = refusal(404, None, "page not found")
        task = await system.submit(label="the cat")

        await system.advance(WAIT)

        ended = await system.task(task.id)
        assert ended.state is TaskState.EXPIRED
        assert ended.message.startswith("unknown: ")
        assert len(system.kling.create_ids) == 1
        (alert,) = await system.alerts("submit_unknown")
        assert alert["task"]["id"] == task.id
        assert alert["task"]["label"] == "the cat"
        assert "console" in alert["remedy"]
        assert await system.event_types() == ["task.expired", "alert.submit_unknown"]


async def test_the_denial_of_a_gateway_that_drops_ids_is_not_believed(tmp_path: Path) -> None:
    async with a_task_system(tmp_path, kling_settings=GATEWAY) as system, system.running():
        system.kling.drops_external_ids = True
        await system.submit()
        system.kling.create_faults, system.kling.create_despite_fault = [no_response()], True
        lost = await system.submit()

        await system.advance(WAIT)

        assert (await system.task(lost.id)).state is TaskState.EXPIRED
        assert len(system.kling.create_ids) == 2
        assert len(await system.alerts("submit_unknown")) == 1


async def test_the_denial_of_an_official_looking_kling_that_drops_ids_is_not_believed_either(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        system.kling.drops_external_ids = True
        await system.submit()
        system.kling.create_faults, system.kling.create_despite_fault = [no_response()], True
        lost = await system.submit()

        await system.advance(WAIT)

        assert (await system.task(lost.id)).state is TaskState.EXPIRED
        assert len(system.kling.create_ids) == 2


async def test_the_denial_of_a_gateway_that_keeps_ids_is_believed(tmp_path: Path) -> None:
    async with a_task_system(tmp_path, kling_settings=GATEWAY) as system, system.running():
        await system.submit()
        system.kling.create_faults = [no_response()]
        lost = await system.submit()

        await system.advance(WAIT)

        assert (await system.task(lost.id)).state is TaskState.SUBMITTED
        assert await system.alerts("submit_unknown") == []


@pytest.mark.parametrize("dialect", Dialect)
@pytest.mark.parametrize(
    "base_url",
    ["https://gateway.example/kling", "http://127.0.0.1:8790", "https://klingai.com.example", "https://notklingai.com"],
)
async def test_the_first_denial_ever_of_anybody_but_kling_is_not_believed_however_it_is_spoken_to(
    tmp_path: Path, base_url: str, dialect: Dialect
) -> None:
    gateway = KlingSettings(base_url=base_url, dialect=dialect)
    async with a_task_system(tmp_path, kling_settings=gateway) as system, system.running():
        system.kling.create_faults, system.kling.create_despite_fault, system.kling.drops_external_ids = (
            [no_response()],
            True,
            True,
        )
        task = await system.submit()

        await system.advance(WAIT)

        assert (await system.task(task.id)).state is TaskState.EXPIRED
        assert len(system.kling.tasks) == 1
        assert len(await system.alerts("submit_unknown")) == 1


async def test_a_gateways_client_is_not_told_to_send_again_what_a_gateway_denies_for_the_first_time(
    tmp_path: Path,
) -> None:
    async with a_task_system(tmp_path, kling_settings=GATEWAY) as system, system.running():
        system.kling.create_faults = [no_response()]
        await submit_by_gateway(system)

        await system.advance(WAIT)

        assert (await only_task(system)).state is TaskState.EXPIRED
        assert len(await system.alerts("submit_unknown")) == 1


@pytest.mark.parametrize("dialect", Dialect)
@pytest.mark.parametrize("host", ["api-singapore.klingai.com", "api-beijing.klingai.com"])
async def test_klings_own_first_denial_ever_is_believed(tmp_path: Path, host: str, dialect: Dialect) -> None:
    kling = KlingSettings(base_url=f"https://{host}", dialect=dialect)
    async with a_task_system(tmp_path, kling_settings=kling) as system, system.running():
        system.kling.create_faults = [no_response()]
        task = await system.submit()

        await system.advance(WAIT)

        assert system.kling.create_ids == [task.id, task.id]
        assert (await system.task(task.id)).state is TaskState.SUBMITTED


@pytest.mark.parametrize("is_made", [False, True], ids=["not made", "made without our id"])
async def test_where_all_that_is_listed_is_known_a_denial_is_believed(tmp_path: Path, *, is_made: bool) -> None:
    local = KlingSettings(base_url="http://127.0.0.1:8790")
    async with a_task_system(tmp_path, kling_settings=local) as system, system.running():
        system.kling.create_faults, system.kling.create_despite_fault, system.kling.drops_external_ids = (
            [no_response()],
            is_made,
            True,
        )
        task = await system.submit()

        await system.advance(WAIT)

        assert system.kling.create_ids == [task.id] * (1 if is_made else 2)
        assert len(system.kling.tasks) == 1
        assert (await system.task(task.id)).state is (TaskState.EXPIRED if is_made else TaskState.SUBMITTED)


async def test_that_ids_are_kept_at_another_endpoint_proves_nothing(tmp_path: Path) -> None:
    async with a_task_system(tmp_path, kling_settings=GATEWAY) as system, system.running():
        await system.submit(endpoint="images/generations", body={"prompt": "a cat"})
        system.kling.create_faults, system.kling.create_despite_fault, system.kling.drops_external_ids = (
            [no_response()],
            True,
            True,
        )
        lost = await system.submit()

        await system.advance(WAIT)

        assert (await system.task(lost.id)).state is TaskState.EXPIRED
        assert len(system.kling.tasks) == 2


async def test_a_callback_while_the_answer_is_lost_tells_which_task_it_is(tmp_path: Path) -> None:
    async with a_task_system(tmp_path, kling_settings=GATEWAY) as system, system.running():
        system.kling.drops_external_ids, system.kling.create_despite_fault = True, True
        system.kling.create_faults = [no_response()]
        system.kling.lookup_fault = refusal(404, None)
        task = await system.submit()
        kling_task = system.kling.tasks["k1"]
        kling_task.status = "processing"

        assert await system.push(kling_task.token, kling_task.status_body())
        await system.advance(WAIT)

        bound = await system.task(task.id)
        assert (bound.kling_id, bound.state) == ("k1", TaskState.PROCESSING)
        assert await system.alerts("submit_unknown") == []
        assert len(system.kling.create_ids) == 1


async def test_a_task_given_up_as_unknown_still_comes_to_its_end_by_its_callback(tmp_path: Path) -> None:
    async with a_task_system(tmp_path, kling_settings=GATEWAY) as system, system.running():
        system.kling.drops_external_ids, system.kling.create_despite_fault = True, True
        system.kling.create_faults = [no_response()]
        system.kling.lookup_fault = refusal(404, None)
        task = await system.submit()
        await system.advance(WAIT)
        kling_task = system.kling.tasks["k1"]

        assert await system.push(kling_task.token, system.kling.finish_task(kling_task))
        await system.settle()

        ended = await system.task(task.id)
        assert (ended.state, ended.kling_id) == (TaskState.SUCCEED, "k1")
        assert await system.event_types(task.id) == ["task.expired", "alert.submit_unknown", "task.succeed"]


async def test_a_task_about_to_be_sent_again_is_looked_up_instead_when_its_callback_comes(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system:
        system.kling.create_faults, system.kling.create_despite_fault = [no_response()], True
        task = await system.submit()
        await system.recorder.requeue(task, "Kling never got it", until=system.clock.now())
        kling_task = system.kling.tasks["k1"]

        await system.push(kling_task.token, system.kling.finish_task(kling_task))
        async with system.running():
            await system.advance(10)

        assert (await system.task(task.id)).state is TaskState.SUCCEED
        assert len(system.kling.create_ids) == 1


async def test_a_clock_that_is_set_back_keeps_nobody_from_looking_a_task_up(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        system.kling.create_faults, system.kling.create_despite_fault = [no_response()], True
        system.kling.lookup_fault = KlingUnreachable("Kling cannot be reached.")
        task = await system.submit()
        await system.advance(600, step=10)
        system.kling.lookup_fault = None

        system.clock.advance(timedelta(days=-1))
        system.notifiers.tasks.notify()
        await system.advance(65, step=5)

        assert (await system.task(task.id)).state is TaskState.SUBMITTED
        assert len(system.kling.tasks) == 1
