"""A batch is told of once: when it is closed, its tasks are over and their results home, whatever comes between."""

import contextlib
import json
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any, cast

import pytest
from harness.factories import a_task, an_event, at
from harness.task_system import FakeKling, IdleClock, Workshop, a_workshop, refusal

from receiver.domain.errors import Conflict, NotFound, StoreUnavailable
from receiver.domain.model import Archiving, Json, TaskState
from receiver.domain.replays import Batch, BatchState, BatchView
from receiver.events.payload import MOST_BYTES_TOLD, MOST_TOLD, batch_data
from receiver.settings import CallbackSettings, RouteSettings, Verify, WebhookSettings
from receiver.store.interfaces import ById, Change, Homecoming
from receiver.tasks.batches import Batches, Gatherer

BELIEVED = CallbackSettings(verify=Verify.NEVER)


async def the_ends(shop: Workshop) -> list[Json]:
    """Give the data of every event that tells of a batch's end, oldest first."""
    found = (await shop.store.events(types=["batch.finished"], limit=200)).items
    return [json.loads(event.envelope)["data"] for event in reversed(found)]


async def end(shop: Workshop, number: int, status: str = "succeed") -> None:
    made = shop.kling.made[f"k{number}"]
    await shop.push(made.token, shop.kling.end(made, status))
    await shop.settles()


async def test_the_end_of_the_last_task_is_told_with_the_results_of_all(tmp_path: Path) -> None:
    async with a_workshop(tmp_path, callbacks=BELIEVED) as shop, shop.working():
        tasks = [
            await shop.submit(batch="b1", batch_size=3, label=f"job {n}", tags={"project": "ads"}) for n in (1, 2, 3)
        ]
        await end(shop, 2, "failed")
        await end(shop, 1)
        assert await the_ends(shop) == []

        await end(shop, 3)

        [data] = await the_ends(shop)
        assert (data["status"], data["left_out"], data["rest"]) == ("finished", 0, None)
        assert data["message"] == "Batch b1 is finished: 2 succeed, 1 failed."
        assert data["batch"]["counts"] == {"succeed": 2, "failed": 1}
        assert (data["batch"]["name"], data["batch"]["size"], data["batch"]["tasks"]) == ("b1", 3, 3)
        assert [told["id"] for told in data["tasks"]] == [task.id for task in tasks]
        assert [told["state"] for told in data["tasks"]] == ["succeed", "failed", "succeed"]
        assert data["tasks"][0]["result"]["images"][0]["url"] == "https://cdn.example.com/0.png"
        assert (data["tasks"][0]["label"], data["tasks"][0]["tags"]) == ("job 1", {"project": "ads"})
        assert data["tasks"][0]["kling_id"] == "k1"
        assert data["tasks"][1]["result"] == {}
        view = await shop.gatherer.find("b1")
        assert (view.batch.state, view.batch.event_id) == (BatchState.FINISHED, data["event_id"])


async def test_a_quick_first_task_does_not_finish_an_open_batch(tmp_path: Path) -> None:
    async with a_workshop(tmp_path, callbacks=BELIEVED) as shop, shop.working():
        await shop.submit(batch="b1")
        await end(shop, 1)
        await shop.submit(batch="b1")
        await shop.passes(3600, step=600)
        assert await the_ends(shop) == []

        await shop.gatherer.close("b1", why="", actor="alice")
        await shop.settles()
        assert await the_ends(shop) == []
        with pytest.raises(Conflict):
            await shop.submit(batch="b1")
        await end(shop, 2)

        [data] = await the_ends(shop)
        assert data["batch"]["counts"] == {"succeed": 2}


async def test_a_batch_whose_tasks_are_over_is_finished_by_the_word_that_closes_it(tmp_path: Path) -> None:
    async with a_workshop(tmp_path, callbacks=BELIEVED) as shop, shop.working():
        await shop.submit(batch="b1")
        await end(shop, 1)

        await shop.gatherer.close("b1", why="that was all", actor="alice")
        await shop.settles()
        await shop.gatherer.close("b1", why="again", actor="alice")
        await shop.settles()

        assert len(await the_ends(shop)) == 1
        with pytest.raises(NotFound):
            await shop.gatherer.close("b2", why="", actor="alice")


async def test_what_kling_refuses_or_is_given_up_on_is_over_too(tmp_path: Path) -> None:
    async with a_workshop(tmp_path) as shop, shop.working():
        await shop.submit(batch="b1", batch_size=2)
        shop.kling.create_faults = [refusal(400, 1201)]
        await shop.submit(batch="b1")
        shop.kling.made["k1"].status = "processing"
        assert await the_ends(shop) == []

        await shop.passes(50 * 3600, step=1800)

        [data] = await the_ends(shop)
        assert data["batch"]["counts"] == {"rejected": 1, "expired": 1}
        assert [told["message"] for told in data["tasks"]][1] != ""


async def test_a_success_after_that_is_told_of_the_task_alone(tmp_path: Path) -> None:
    async with a_workshop(tmp_path, callbacks=BELIEVED) as shop, shop.working():
        await shop.submit(batch="b1", batch_size=1)
        shop.kling.made["k1"].status = "processing"
        await shop.passes(50 * 3600, step=1800)
        assert len(await the_ends(shop)) == 1

        await end(shop, 1)

        assert "task.succeed" in await shop.types()
        assert len(await the_ends(shop)) == 1


async def test_a_start_tells_of_what_was_complete_when_the_service_died(tmp_path: Path) -> None:
    clock = IdleClock()
    kling = FakeKling(clock)
    async with a_workshop(tmp_path, kling=kling, clock=clock, callbacks=BELIEVED) as shop:
        await shop.submit(batch="b1", batch_size=1)
        await shop.push(kling.made["k1"].token, kling.end(kling.made["k1"]))
        assert await the_ends(shop) == []

    for _ in range(2):
        async with a_workshop(tmp_path, kling=kling, clock=clock) as shop, shop.working():
            assert len(await the_ends(shop)) == 1


async def test_results_that_are_awaited_hold_the_end_back(tmp_path: Path) -> None:
    async with a_workshop(tmp_path) as shop, shop.working():
        task = a_task(batch="b1", state=TaskState.SUCCEED, due_at=None)
        await shop.store.add(task, b"", batch_size=1)
        event = an_event(archiving=Archiving.AWAITED, envelope=_envelope({"images": []}))
        await shop.store.apply(ById(id=task.id), lambda *_: Change(events=[event]))
        shop.bells.batches.ring()
        await shop.settles()
        assert await the_ends(shop) == []

        asset = {"url": "https://cdn.example.com/0.png", "path": "/r/0.png"}
        await shop.store.bring_home(Homecoming(event_id=event.id, envelope=_envelope({}, assets=[asset])))
        shop.bells.batches.ring()
        await shop.settles()

        [data] = await the_ends(shop)
        assert data["tasks"][0]["assets"] == [asset]


def _envelope(result: Json, **data: Any) -> bytes:
    return json.dumps({"type": "task.succeed", "timestamp": "", "data": {"result": result, **data}}).encode()


@pytest.mark.parametrize("on", ["batch", "*"])
async def test_routes_are_told_that_ask_for_it_and_no_others(tmp_path: Path, on: str) -> None:
    rules: dict[str, dict[str, Any]] = {
        "asks": {"on": frozenset([on]), "where": "batch.counts.succeed == `1`"},
        "other-batch": {"on": frozenset(["batch"]), "where": "batch.name == 'b2'"},
        "ends": {"on": frozenset(["succeed", "alert"])},
    }
    routes = tuple(
        RouteSettings(name=name, webhook=WebhookSettings(url="http://127.0.0.1/"), **rule)
        for name, rule in rules.items()
    )
    async with a_workshop(tmp_path, callbacks=BELIEVED, routes=routes) as shop, shop.working():
        await shop.submit(batch="b1", batch_size=1)
        await end(shop, 1)

        [data] = await the_ends(shop)
        views = (await shop.store.deliveries(event_id=data["event_id"])).items
        assert [view.delivery.route for view in views] == ["asks"]


class Watched:
    """The store's batches, of which the first fails a few times; counts how often anybody looks."""

    def __init__(self, batches: Batches, *, refusals: int = 0, error: Exception | None = None) -> None:
        self._batches = batches
        self.refusals = refusals
        self.error = error or StoreUnavailable("The disk is full.")
        self.looks = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batches, name)

    async def complete(self) -> Sequence[str]:
        self.looks += 1
        return await self._batches.complete()

    async def finish(self, name: str, *args: Any, **more: Any) -> Any:
        if self.refusals and name == "b1":
            self.refusals -= 1
            raise self.error
        return await self._batches.finish(name, *args, **more)


def watch(shop: Workshop, **how: Any) -> Watched:
    """Put a watched store under the workshop's gatherer."""
    watched: Any = Watched(shop.store.batches, **how)
    shop.gatherer = Gatherer(watched, shop.gatherer._announcer, bells=shop.bells, clock=shop.clock)
    return cast("Watched", watched)


async def test_on_a_full_disk_it_is_told_later(tmp_path: Path) -> None:
    async with a_workshop(tmp_path, callbacks=BELIEVED) as shop:
        watch(shop, refusals=2)
        async with shop.working():
            await shop.submit(batch="b1", batch_size=1)
            await end(shop, 1)
            assert await the_ends(shop) == []

            await shop.passes(11)

            assert len(await the_ends(shop)) == 1


async def test_a_batch_that_cannot_be_told_of_ends_neither_the_others_nor_the_service(tmp_path: Path) -> None:
    async with a_workshop(tmp_path, callbacks=BELIEVED) as shop:
        for name in ("b1", "b2"):
            await shop.submit(batch=name, batch_size=1)
        for made in shop.kling.made.values():
            await shop.push(made.token, shop.kling.end(made))
        watch(shop, refusals=2, error=ZeroDivisionError("a fault of ours"))

        async with shop.working():
            assert [data["batch"]["name"] for data in await the_ends(shop)] == ["b2"]
            await shop.passes(61)

            assert [data["batch"]["name"] for data in await the_ends(shop)] == ["b2", "b1"]


async def test_where_no_task_has_a_batch_nobody_looks_for_one_after_the_start(tmp_path: Path) -> None:
    async with a_workshop(tmp_path, callbacks=BELIEVED) as shop:
        watched = watch(shop)
        async with shop.working():
            await shop.submit()
            await shop.submit(batch="b1")
            await end(shop, 1)
            await shop.passes(3600, step=60)
            assert (await shop.types()).count("task.succeed") == 1
            assert watched.looks == 1

            await end(shop, 2)

            assert watched.looks == 2


def test_a_large_batch_is_told_of_in_part_and_where_the_rest_is() -> None:
    batch = _a_view().batch
    envelope = _envelope({"images": [{"url": "https://cdn.example.com/" + "x" * 100}]})
    tasks = [(a_task(id=f"tsk_{n:05}", state=TaskState.SUCCEED), envelope) for n in range(MOST_TOLD)]

    data = batch_data(batch, {TaskState.SUCCEED: 10_000}, tasks, at=at(9))

    assert len(data["tasks"]) == MOST_TOLD
    assert (data["left_out"], data["batch"]["counts"]) == (10_000 - MOST_TOLD, {"succeed": 10_000})
    assert data["rest"] == "/api/events?batch=b1&type=task.succeed,task.failed,task.rejected,task.expired"


def test_what_is_told_of_a_batch_is_no_larger_than_web_servers_take() -> None:
    envelope = _envelope({"images": [{"url": "https://cdn.example.com/" + "x" * 5_000}] * 9})
    tasks = [(a_task(id=f"tsk_{n:05}", state=TaskState.SUCCEED), envelope) for n in range(MOST_TOLD)]

    data = batch_data(_a_view().batch, {TaskState.SUCCEED: MOST_TOLD}, tasks, at=at(9))

    assert 10 < len(data["tasks"]) < MOST_TOLD
    assert len(json.dumps(data)) < MOST_BYTES_TOLD + 10_000
    assert data["left_out"] == MOST_TOLD - len(data["tasks"])


def _a_view() -> BatchView:
    return BatchView(batch=Batch(name="b1", id="bat_1", created_at=at(0), taken=3, closed_at=at(1)), counts={})


@pytest.mark.parametrize("seed", range(12))
async def test_in_whatever_order_things_happen_each_batch_is_told_of_once(tmp_path: Path, seed: int) -> None:
    """Tasks come and end, batches are closed, the service dies and comes again, all at random."""
    chance, clock = Random(seed), IdleClock()
    story = Story(tmp_path, FakeKling(clock), clock, chance)
    for _ in range(chance.randint(2, 4)):
        await story.goes_on(chance.randint(4, 12), alive=chance.random() < 0.7)
    await story.comes_to_its_end()

    assert sorted(story.taken) == sorted(story.told), "each batch, once"
    for name, data in story.told.items():
        assert [told["id"] for told in data["tasks"]] == story.taken[name]
        assert sum(data["batch"]["counts"].values()) == len(story.taken[name])


class Story:
    """A random life of a service, with what it was handed and what it told."""

    def __init__(self, folder: Path, kling: FakeKling, clock: IdleClock, chance: Random) -> None:
        self.folder = folder
        self.kling = kling
        self.clock = clock
        self.chance = chance
        self.sizes: dict[str, int | None] = {"plain": None, "sized": chance.randint(1, 6), "other": None}
        self.closed: set[str] = set()
        self.taken: dict[str, list[str]] = {}
        self.told: dict[str, Json] = {}

    def a_workshop(self) -> contextlib.AbstractAsyncContextManager[Workshop]:
        return a_workshop(self.folder, kling=self.kling, clock=self.clock, callbacks=BELIEVED)

    async def goes_on(self, steps: int, *, alive: bool) -> None:
        """Run for some steps and die; while not *alive* nobody looks after batches."""
        async with self.a_workshop() as shop:
            async with shop.working() if alive else contextlib.nullcontext():
                for _ in range(steps):
                    await self.chance.choice([self.add, self.add, self.finish, self.finish, self.close])(shop)
                    self.clock.advance(timedelta(milliseconds=self.chance.randint(1, 50)))
            await self.look(shop)

    async def comes_to_its_end(self) -> None:
        """Close what is open, end what runs, and let the service see to it."""
        async with self.a_workshop() as shop, shop.working():
            for name in self.taken:
                await shop.gatherer.close(name, why="", actor="alice")
            self.closed.update(self.taken)
            while self._running():
                await self.finish(shop)
            await shop.settles()
            await self.look(shop)

    async def add(self, shop: Workshop) -> None:
        name = self.chance.choice(list(self.sizes))
        size = self.sizes[name]
        is_open = len(self.taken.get(name, ())) != size and name not in self.closed
        try:
            task = await shop.submit(batch=name, batch_size=size)
        except Conflict:
            assert not is_open
            return
        assert is_open
        self.taken.setdefault(name, []).append(task.id)

    async def finish(self, shop: Workshop) -> None:
        if running := self._running():
            made = self.chance.choice(running)
            await shop.push(made.token, self.kling.end(made, self.chance.choice(["succeed", "failed"])))

    async def close(self, shop: Workshop) -> None:
        name = self.chance.choice(list(self.sizes))
        if self.taken.get(name) and self.chance.random() < 0.3:
            await shop.gatherer.close(name, why="", actor="alice")
            self.closed.add(name)

    def _running(self) -> list[Any]:
        return [made for made in self.kling.made.values() if made.status == "submitted"]

    async def look(self, shop: Workshop) -> None:
        """Note what was told; nothing is told twice, and nothing before its time."""
        ends = await the_ends(shop)
        names = [data["batch"]["name"] for data in ends]
        assert len(set(names)) == len(names)
        self.told = {data["batch"]["name"]: data for data in ends}
        for name in names:
            assert name in self.closed or len(self.taken[name]) == self.sizes[name]
