"""A batch is finished once: when it is closed, its tasks have ended and their results are archived."""

import contextlib
import json
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any, cast

import pytest
from harness.factories import a_task, an_event, at
from harness.fake_kling import FakeKling, refusal
from harness.task_system import IdleClock, TaskSystem, a_task_system

from receiver.domain.batches import Batch, BatchState, BatchView
from receiver.domain.errors import Conflict, NotFound, StoreUnavailable
from receiver.domain.listed_state import ListedState
from receiver.domain.model import ArchiveState, Json, Source, TaskState, Verification
from receiver.events.payload import MAX_BATCH_BYTES, MAX_BATCH_TASKS, batch_data, envelope, task_data
from receiver.settings import CallbackSettings, RouteSettings, Verify, WebhookSettings
from receiver.store.interfaces import ArchiveUpdate, ById, Change
from receiver.tasks.batches import BatchService, BatchStore

TRUSTED_CALLBACKS = CallbackSettings(verify=Verify.NEVER)


async def batch_events(system: TaskSystem) -> list[Json]:
    """Return the data of every ``batch.finished`` event, oldest first."""
    found = (await system.store.catalog.events(types=["batch.finished"], limit=200)).items
    return [json.loads(event.envelope)["data"] for event in reversed(found)]


async def finish_task(system: TaskSystem, number: int, status: str = "succeed") -> None:
    kling_task = system.kling.tasks[f"k{number}"]
    await system.push(kling_task.token, system.kling.finish_task(kling_task, status))
    await system.settle()


async def test_the_last_tasks_end_finishes_the_batch_with_all_results(tmp_path: Path) -> None:
    async with a_task_system(tmp_path, callbacks=TRUSTED_CALLBACKS) as system, system.running():
        tasks = [
            await system.submit(batch="b1", batch_size=3, label=f"job {n}", tags={"project": "ads"}) for n in (1, 2, 3)
        ]
        await finish_task(system, 2, "failed")
        await finish_task(system, 1)
        assert await batch_events(system) == []

        await finish_task(system, 3)

        [data] = await batch_events(system)
        assert (data["status"], data["left_out"], data["rest"]) == ("finished", 0, None)
        assert data["message"] == "Batch b1 is finished: 2 succeed, 1 failed."
        assert data["batch"]["counts"] == {"succeed": 2, "failed": 1}
        assert (data["batch"]["name"], data["batch"]["size"], data["batch"]["tasks"]) == ("b1", 3, 3)
        assert [listed["id"] for listed in data["tasks"]] == [task.id for task in tasks]
        assert [listed["state"] for listed in data["tasks"]] == ["succeed", "failed", "succeed"]
        assert data["tasks"][0]["result"]["images"][0]["url"] == "https://cdn.example.com/0.png"
        assert (data["tasks"][0]["label"], data["tasks"][0]["tags"]) == ("job 1", {"project": "ads"})
        assert data["tasks"][0]["kling_id"] == "k1"
        assert data["tasks"][1]["result"] == {}
        view = await system.batch_service.find("b1")
        assert (view.batch.state, view.batch.event_id) == (BatchState.FINISHED, data["event_id"])


async def test_a_quick_first_task_does_not_finish_an_open_batch(tmp_path: Path) -> None:
    async with a_task_system(tmp_path, callbacks=TRUSTED_CALLBACKS) as system, system.running():
        await system.submit(batch="b1")
        await finish_task(system, 1)
        await system.submit(batch="b1")
        await system.advance(3600, step=600)
        assert await batch_events(system) == []

        await system.batch_service.close("b1", why="", actor="alice")
        await system.settle()
        assert await batch_events(system) == []
        with pytest.raises(Conflict):
            await system.submit(batch="b1")
        await finish_task(system, 2)

        [data] = await batch_events(system)
        assert data["batch"]["counts"] == {"succeed": 2}


async def test_closing_a_batch_with_only_ended_tasks_finishes_it(tmp_path: Path) -> None:
    async with a_task_system(tmp_path, callbacks=TRUSTED_CALLBACKS) as system, system.running():
        await system.submit(batch="b1")
        await finish_task(system, 1)

        await system.batch_service.close("b1", why="that was all", actor="alice")
        await system.settle()
        await system.batch_service.close("b1", why="again", actor="alice")
        await system.settle()

        assert len(await batch_events(system)) == 1
        with pytest.raises(NotFound):
            await system.batch_service.close("b2", why="", actor="alice")


async def test_refused_and_expired_tasks_count_as_ended(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        await system.submit(batch="b1", batch_size=2)
        system.kling.create_faults = [refusal(400, 1201)]
        await system.submit(batch="b1")
        system.kling.tasks["k1"].status = "processing"
        assert await batch_events(system) == []

        await system.advance(50 * 3600, step=1800)

        [data] = await batch_events(system)
        assert data["batch"]["counts"] == {"rejected": 1, "expired": 1}
        assert [listed["message"] for listed in data["tasks"]][1] != ""


async def test_a_success_after_expiry_does_not_finish_the_batch_again(tmp_path: Path) -> None:
    async with a_task_system(tmp_path, callbacks=TRUSTED_CALLBACKS) as system, system.running():
        await system.submit(batch="b1", batch_size=1)
        system.kling.tasks["k1"].status = "processing"
        await system.advance(50 * 3600, step=1800)
        assert len(await batch_events(system)) == 1

        await finish_task(system, 1)

        assert "task.succeed" in await system.event_types()
        assert len(await batch_events(system)) == 1


async def test_a_restart_finishes_a_batch_that_was_complete_at_the_crash(tmp_path: Path) -> None:
    clock = IdleClock()
    kling = FakeKling(clock)
    async with a_task_system(tmp_path, kling=kling, clock=clock, callbacks=TRUSTED_CALLBACKS) as system:
        await system.submit(batch="b1", batch_size=1)
        await system.push(kling.tasks["k1"].token, kling.finish_task(kling.tasks["k1"]))
        assert await batch_events(system) == []

    for _ in range(2):
        async with a_task_system(tmp_path, kling=kling, clock=clock) as system, system.running():
            assert len(await batch_events(system)) == 1


async def test_a_batch_waits_for_its_archives(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        task = a_task(batch="b1", state=TaskState.SUCCEED, due_at=None)
        await system.store.tasks.add(task, b"", batch_size=1)
        event = an_event(archiving=ArchiveState.PENDING, envelope=_envelope({"images": []}))
        await system.store.tasks.apply(ById(id=task.id), lambda *_: Change(events=[event]))
        system.notifiers.batches.notify()
        await system.settle()
        assert await batch_events(system) == []

        file = {"sha256": "0" * 64, "bytes": 3, "content_type": "image/png"}
        asset = {"url": "https://cdn.example.com/0.png", "path": "/r/0.png", **file}
        await system.store.archive.save(ArchiveUpdate(event_id=event.id, envelope=_envelope({}, assets=[asset])))
        system.notifiers.batches.notify()
        await system.settle()

        [data] = await batch_events(system)
        assert data["tasks"][0]["assets"] == [asset]


def _envelope(result: Json, **data: Any) -> bytes:
    """Return the envelope of a task's event."""
    about: Any = {"event_id": "evt_1", "state": TaskState.SUCCEED, "source": Source.POLL, "verified": Verification.API}
    return envelope("task.succeed", at(0), task_data(a_task(), **about, result=result) | data)


@pytest.mark.parametrize("on", ["batch", "*"])
async def test_only_matching_routes_receive_the_batch(tmp_path: Path, on: str) -> None:
    rules: dict[str, dict[str, Any]] = {
        "asks": {"on": frozenset([on]), "where": "batch.counts.succeed == `1`"},
        "other-batch": {"on": frozenset(["batch"]), "where": "batch.name == 'b2'"},
        "ends": {"on": frozenset(["succeed", "alert"])},
    }
    routes = tuple(
        RouteSettings(name=name, webhook=WebhookSettings(url="http://127.0.0.1/"), **rule)
        for name, rule in rules.items()
    )
    async with a_task_system(tmp_path, callbacks=TRUSTED_CALLBACKS, routes=routes) as system, system.running():
        await system.submit(batch="b1", batch_size=1)
        await finish_task(system, 1)

        [data] = await batch_events(system)
        views = (await system.store.catalog.deliveries(event_id=data["event_id"])).items
        assert [view.delivery.route for view in views] == ["asks"]


class ObservedBatchStore:
    """The store's batches. The first batch fails a few times; queries are counted."""

    def __init__(self, batches: BatchStore, *, failures: int = 0, error: Exception | None = None) -> None:
        self._batches = batches
        self.failures = failures
        self.error = error or StoreUnavailable("The disk is full.")
        self.list_count = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batches, name)

    async def list_complete(self) -> Sequence[str]:
        self.list_count += 1
        return await self._batches.list_complete()

    async def finish(self, name: str, *args: Any, **more: Any) -> Any:
        if self.failures and name == "b1":
            self.failures -= 1
            raise self.error
        return await self._batches.finish(name, *args, **more)


def observe_batches(system: TaskSystem, **how: Any) -> ObservedBatchStore:
    """Give the batch service an observed store."""
    watched: Any = ObservedBatchStore(system.store.batches, **how)
    system.batch_service = BatchService(
        watched, system.batch_service._event_factory, notifiers=system.notifiers, clock=system.clock
    )
    return cast("ObservedBatchStore", watched)


async def test_a_batch_is_finished_later_if_the_disk_is_full(tmp_path: Path) -> None:
    async with a_task_system(tmp_path, callbacks=TRUSTED_CALLBACKS) as system:
        observe_batches(system, failures=2)
        async with system.running():
            await system.submit(batch="b1", batch_size=1)
            await finish_task(system, 1)
            assert await batch_events(system) == []

            await system.advance(11)

            assert len(await batch_events(system)) == 1


async def test_a_failing_batch_stops_neither_the_others_nor_the_service(tmp_path: Path) -> None:
    async with a_task_system(tmp_path, callbacks=TRUSTED_CALLBACKS) as system:
        for name in ("b1", "b2"):
            await system.submit(batch=name, batch_size=1)
        for kling_task in system.kling.tasks.values():
            await system.push(kling_task.token, system.kling.finish_task(kling_task))
        observe_batches(system, failures=2, error=ZeroDivisionError("a bug"))

        async with system.running():
            assert [data["batch"]["name"] for data in await batch_events(system)] == ["b2"]
            await system.advance(61)

            assert [data["batch"]["name"] for data in await batch_events(system)] == ["b2", "b1"]


async def test_the_store_is_not_queried_for_tasks_without_a_batch(tmp_path: Path) -> None:
    async with a_task_system(tmp_path, callbacks=TRUSTED_CALLBACKS) as system:
        watched = observe_batches(system)
        async with system.running():
            await system.submit()
            await system.submit(batch="b1")
            await finish_task(system, 1)
            await system.advance(3600, step=60)
            assert (await system.event_types()).count("task.succeed") == 1
            assert watched.list_count == 1

            await finish_task(system, 2)

            assert watched.list_count == 2


def test_the_event_of_a_large_batch_links_to_the_other_tasks() -> None:
    batch = _a_view().batch
    event_json = _envelope({"images": [{"url": "https://cdn.example.com/" + "x" * 100}]})
    tasks = [(a_task(id=f"tsk_{n:05}", state=TaskState.SUCCEED), event_json) for n in range(MAX_BATCH_TASKS)]

    data = batch_data(batch, {ListedState.SUCCEED: 10_000}, tasks, at=at(9))

    assert len(data["tasks"]) == MAX_BATCH_TASKS
    assert (data["left_out"], data["batch"]["counts"]) == (10_000 - MAX_BATCH_TASKS, {"succeed": 10_000})
    assert data["rest"] == "/api/events?batch=b1&type=task.succeed,task.failed,task.rejected,task.expired"


def test_the_event_of_a_batch_is_limited_in_size() -> None:
    event_json = _envelope({"images": [{"url": "https://cdn.example.com/" + "x" * 5_000}] * 9})
    tasks = [(a_task(id=f"tsk_{n:05}", state=TaskState.SUCCEED), event_json) for n in range(MAX_BATCH_TASKS)]

    data = batch_data(_a_view().batch, {ListedState.SUCCEED: MAX_BATCH_TASKS}, tasks, at=at(9))

    assert 10 < len(data["tasks"]) < MAX_BATCH_TASKS
    assert len(json.dumps(data)) < MAX_BATCH_BYTES + 10_000
    assert data["left_out"] == MAX_BATCH_TASKS - len(data["tasks"])


def _a_view() -> BatchView:
    return BatchView(batch=Batch(name="b1", id="bat_1", created_at=at(0), task_count=3, closed_at=at(1)), counts={})


@pytest.mark.parametrize("seed", range(12))
async def test_every_batch_is_finished_once_in_any_order_of_steps(tmp_path: Path, seed: int) -> None:
    """Tasks start and end, batches are closed and the service crashes and restarts, all at random."""
    rng, clock = Random(seed), IdleClock()
    scenario = RandomScenario(tmp_path, FakeKling(clock), clock, rng)
    for _ in range(rng.randint(2, 4)):
        await scenario.run_steps(rng.randint(4, 12), alive=rng.random() < 0.7)
    await scenario.finish_all()

    assert sorted(scenario.submitted) == sorted(scenario.announced), "each batch, once"
    for name, data in scenario.announced.items():
        assert [listed["id"] for listed in data["tasks"]] == scenario.submitted[name]
        assert sum(data["batch"]["counts"].values()) == len(scenario.submitted[name])


class RandomScenario:
    """A random run of a service, with the submitted tasks and the published batches."""

    def __init__(self, folder: Path, kling: FakeKling, clock: IdleClock, rng: Random) -> None:
        self.folder = folder
        self.kling = kling
        self.clock = clock
        self.rng = rng
        self.sizes: dict[str, int | None] = {"plain": None, "sized": rng.randint(1, 6), "other": None}
        self.closed: set[str] = set()
        self.submitted: dict[str, list[str]] = {}
        self.announced: dict[str, Json] = {}

    def a_task_system(self) -> contextlib.AbstractAsyncContextManager[TaskSystem]:
        return a_task_system(self.folder, kling=self.kling, clock=self.clock, callbacks=TRUSTED_CALLBACKS)

    async def run_steps(self, steps: int, *, alive: bool) -> None:
        """Run some steps, then crash. Unless *alive*, the batch service does not run."""
        async with self.a_task_system() as system:
            async with system.running() if alive else contextlib.nullcontext():
                for _ in range(steps):
                    await self.rng.choice([self.add, self.add, self.finish, self.finish, self.close])(system)
                    self.clock.advance(timedelta(milliseconds=self.rng.randint(1, 50)))
            await self.check_events(system)

    async def finish_all(self) -> None:
        """Close every batch, end every task and let the service finish the batches."""
        async with self.a_task_system() as system, system.running():
            for name in self.submitted:
                await system.batch_service.close(name, why="", actor="alice")
            self.closed.update(self.submitted)
            while self._running():
                await self.finish(system)
            await system.settle()
            await self.check_events(system)

    async def add(self, system: TaskSystem) -> None:
        name = self.rng.choice(list(self.sizes))
        size = self.sizes[name]
        is_open = len(self.submitted.get(name, ())) != size and name not in self.closed
        try:
            task = await system.submit(batch=name, batch_size=size)
        except Conflict:
            assert not is_open
            return
        assert is_open
        self.submitted.setdefault(name, []).append(task.id)

    async def finish(self, system: TaskSystem) -> None:
        if running := self._running():
            kling_task = self.rng.choice(running)
            await system.push(
                kling_task.token, self.kling.finish_task(kling_task, self.rng.choice(["succeed", "failed"]))
            )

    async def close(self, system: TaskSystem) -> None:
        name = self.rng.choice(list(self.sizes))
        if self.submitted.get(name) and self.rng.random() < 0.3:
            await system.batch_service.close(name, why="", actor="alice")
            self.closed.add(name)

    def _running(self) -> list[Any]:
        return [kling_task for kling_task in self.kling.tasks.values() if kling_task.status == "submitted"]

    async def check_events(self, system: TaskSystem) -> None:
        """Record the finished batches. None is finished twice or too early."""
        ends = await batch_events(system)
        names = [data["batch"]["name"] for data in ends]
        assert len(set(names)) == len(names)
        self.announced = {data["batch"]["name"]: data for data in ends}
        for name in names:
            assert name in self.closed or len(self.submitted[name]) == self.sizes[name]
