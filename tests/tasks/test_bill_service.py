"""The daily check of the bill and of the packs, over a simulated month."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Coroutine
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from random import Random
from urllib.parse import parse_qs, urlsplit

import pytest
from harness.clock import START, FakeClock
from harness.factories import a_task, an_event
from harness.sqlite_template import open_store

from receiver.domain.clock import Ids
from receiver.domain.costs import Cost, CostGrouping
from receiver.domain.errors import KlingUncertain, UnknownResource
from receiver.domain.model import Json, TaskState
from receiver.domain.notifier import Notifiers
from receiver.events.factory import EventFactory
from receiver.events.routing import compile_routes
from receiver.kling.ledgers import LedgerMissing, Ledgers
from receiver.kling.simulator.endpoints import Endpoints
from receiver.kling.simulator.ledgers import Ledgers as SimulatedLedgers
from receiver.kling.simulator.options import Options
from receiver.kling.simulator.tasks import SUBMITTED, Task, TaskUpdate
from receiver.settings import CostSettings
from receiver.store.interfaces import ById, Change
from receiver.store.sqlite.store import SqliteStore
from receiver.tasks.bill_service import BillService
from receiver.tasks.health_alerts import HealthAlerts

DAY = timedelta(days=1)
PATH = "images/multi-image2image"


class AccountAtSimulator:
    """Answers the account's calls from the simulator's ledgers, without a network."""

    def __init__(self, ledgers: SimulatedLedgers) -> None:
        self.ledgers = ledgers
        self.calls = 0

    async def call(self, method: str, path: str, content: bytes = b"") -> bytes:
        self.calls += 1
        if method == "GET":
            assert set(parse_qs(urlsplit(path).query)) == {"start_time", "end_time"}
            return json.dumps({"code": 0, "data": self.ledgers.packs()}).encode()
        page = self.ledgers.page(path.rpartition("/")[2], json.loads(content))
        return json.dumps({"code": 0, "data": page}).encode()


class SkippingClock(FakeClock):
    """A clock whose waits take no time."""

    async def wait(self, event: asyncio.Event, *, until: datetime | None = None) -> bool:  # noqa: ARG002 -- it waits for nothing
        return event.is_set()


class World:
    """An account at Kling, a store, and the service between them."""

    def __init__(self, store: SqliteStore, **options: object) -> None:
        self.clock, self.store = SkippingClock(), store
        self.ledgers = SimulatedLedgers(Options.parse(options), opened_at=START)
        self.account = AccountAtSimulator(self.ledgers)
        self.ids = Ids(self.clock)

    def service(self, **settings: object) -> BillService:
        events = EventFactory(compile_routes(()), self.ids, archive=False)
        alerts = HealthAlerts(
            self.store.tasks, self.store.catalog, events, public_url="", notifiers=Notifiers(), clock=self.clock
        )
        return BillService(
            Ledgers(self.account, clock=self.clock),
            self.store.costs,
            alerts,
            self.store.catalog,
            settings=CostSettings.model_validate(settings),
            clock=self.clock,
        )

    def charge(self, kling_id: str, *, factor: int = 1) -> None:
        """Bill a task at the simulated Kling."""
        endpoint = Endpoints(()).legacy(PATH)
        assert endpoint is not None
        now = self.clock.now()
        task = Task(
            id=kling_id,
            shown_id=kling_id,
            endpoint=endpoint,
            body={"model_name": "kling-v2-1"},
            external_task_id="",
            callback_url=None,
            rng=Random(1),
            created_at=now,
            update=TaskUpdate(status=SUBMITTED, at=now),
            price=self.ledgers.price(1),
        )
        self.ledgers.charge(task, at=now, factor=factor)

    async def finish(self, *, amount: str = "1") -> str:
        """Store a task that succeeded now with a reported cost; return Kling's id."""
        kling_id, storing = self.finishing(amount)
        await storing
        return kling_id

    def finishing(self, amount: str = "1") -> tuple[str, Coroutine[object, object, None]]:
        """Return Kling's id of a task that succeeds now, and the work that stores it."""
        now, id_ = self.clock.now(), self.ids.new("tsk")
        fields = {"id": id_, "kling_id": f"k{id_}", "external_task_id": id_, "created_at": now, "updated_at": now}
        task = a_task(**fields, state=TaskState.SUCCEED, due_at=None)
        event = an_event(self.ids.new("evt"), task_id=id_, created_at=now)
        cost = Cost(charges={"units": Decimal(amount)}, raw="{}")
        change = Change(task=task, events=[event], cost=cost)

        async def store() -> None:
            await self.store.tasks.add(task, b"{}")
            await self.store.tasks.apply(ById(id=id_), lambda *_: change)

        return f"k{id_}", store()

    async def alerts(self) -> list[tuple[str, Json]]:
        """Return the types and data of the alerts, oldest first."""
        types = ("alert.bill_differs", "alert.pack_low", "alert.pack_recovered")
        page = await self.store.catalog.events(types=types, limit=200)
        return [(event.type, json.loads(event.envelope)["data"]) for event in reversed(page.items)]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with contextlib.aclosing(await open_store(tmp_path / "receiver.db")) as store:
        yield World(store)


async def a_month(world: World) -> tuple[list[str], str, str]:
    """Let 30 days pass with a job an hour. Return the foreign jobs, one that was not billed, and one billed twice."""
    foreign, storing = [], []
    unbilled = overbilled = ""
    for hour in range(30 * 24):
        world.clock.advance(timedelta(hours=1))
        kling_id, work = world.finishing()
        storing.append(work)
        if hour == 200:
            unbilled = kling_id
        elif hour == 300:
            overbilled = kling_id
            world.charge(kling_id, factor=2)
        else:
            world.charge(kling_id)
        if hour % 240 == 100:
            foreign.append(f"foreign{hour}")
            world.charge(foreign[-1])
    world.clock.advance(timedelta(hours=13))
    await asyncio.gather(*storing)
    return foreign, unbilled, overbilled


async def test_a_month_of_bills_shows_each_missing_foreign_and_differing_task(world: World) -> None:
    foreign, unbilled, overbilled = await a_month(world)

    checked = await world.service().check(START, START + 31 * DAY)

    assert [each.kling_id for each in checked.unknown] == foreign
    assert [each.kling_id for each in checked.unbilled] == [unbilled]
    assert [each.own.kling_id for each in checked.different] == [overbilled]
    assert checked.matched == 30 * 24 - 2
    assert checked.total == {"units": Decimal(30 * 24 + 3)}
    assert world.account.calls == 3, "723 charges are two pages of one ledger; the other ledger is empty"


async def test_the_ledger_of_money_corrects_the_unit_of_stored_costs(tmp_path: Path) -> None:
    async with contextlib.aclosing(await open_store(tmp_path / "receiver.db")) as store:
        world = World(store, postpaid=True)
        world.charge(await world.finish(amount="0.14"))
        world.clock.advance(DAY)

        checked = await world.service().check(START - DAY, START + DAY)
        again = await world.service().check(START - DAY, START + DAY)

        assert (checked.agrees, len(checked.corrections), len(again.corrections)) == (True, 1, 0)
        totals = await store.costs.totals(CostGrouping.ENDPOINT)
        assert [total.charges for total in totals] == [{"usd": Decimal("0.14")}]


async def test_the_daily_check_reports_each_day_once_through_restarts(world: World) -> None:
    service = world.service(reconcile=True)
    for hour in range(0, 4 * 24, 3):
        world.clock.advance(timedelta(hours=3))
        world.charge(await world.finish())
        if hour == 30:
            world.charge("foreign")
        if hour % 7 == 0:
            service = world.service(reconcile=True)
        await service.step()

    [(name, data)] = await world.alerts()
    assert name == "alert.bill_differs"
    assert (data["from"], data["to"]) == ("2026-11-23", "2026-11-24")
    assert (data["unknown"], data["unbilled"], data["different"]) == (1, 0, 0)
    assert data["examples"]["unknown"] == ["foreign"]


async def test_the_daily_check_includes_missed_days(world: World) -> None:
    world.clock.advance(timedelta(hours=14))  # 00:00
    await world.service(reconcile=True).step()
    world.charge("foreign")
    world.clock.advance(5 * DAY)

    await world.service(reconcile=True).step()

    [(_, data)] = await world.alerts()
    assert (data["from"], data["to"]) == ("2026-11-22", "2026-11-27")


async def test_a_low_pack_raises_one_alert_and_a_new_pack_another(world: World) -> None:
    world.ledgers = world.account.ledgers = SimulatedLedgers(Options(pack_units=10), opened_at=START)
    for _ in range(10):
        world.charge(await world.finish())
        await world.service(low="20%").step()
    world.account.ledgers = SimulatedLedgers(Options(pack_units=10), opened_at=START)
    await world.service(low="20%").step()

    assert [name for name, _ in await world.alerts()] == ["alert.pack_low", "alert.pack_recovered"]
    data = (await world.alerts())[0][1]
    assert data["message"].startswith("image pack: 20.0% of the pack is left.")
    assert data["pack"]["left"] == "2.0"


class NoLedgers:
    """A gateway without ledgers."""

    async def call(self, *_: object) -> bytes:
        raise UnknownResource("no such path", status=404, kling_code=None)


async def test_a_gateway_without_ledgers_is_named(world: World) -> None:
    with pytest.raises(LedgerMissing, match="has no ledgers"):
        await Ledgers(NoLedgers(), clock=world.clock).packs()


class EndlessLedger:
    """A ledger that always has one more page."""

    def __init__(self, answer: Json) -> None:
        self.answer, self.calls = answer, 0

    async def call(self, *_: object) -> bytes:
        self.calls += 1
        return json.dumps({"data": {**self.answer, "next_cursor": str(self.calls)}}).encode()


async def test_an_endless_ledger_is_given_up(world: World) -> None:
    endless = EndlessLedger({"result": {"detail": []}, "has_more": True})

    with pytest.raises(KlingUncertain, match="more than 200,000 entries"):
        await Ledgers(endless, clock=world.clock).charges(START, START + DAY)

    assert endless.calls == 400


@pytest.mark.parametrize(
    "detail",
    [
        [],
        "no list",
        [1, None, {}],
        [{"task_id": "a", "deduction_amount": "much", "deduction_time": "1"}],
        [{"task_id": "a", "deduction_amount": "1", "deduction_time": "yesterday"}],
        [{"task_id": "", "deduction_amount": "1", "deduction_time": "1790000000000"}],
        [{"task_id": "a", "deduction_amount": "1e999999", "deduction_time": "1790000000000"}],
    ],
)
async def test_an_entry_that_cannot_be_read_is_left_out(world: World, detail: object) -> None:
    odd = EndlessLedger({"result": {"detail": detail}, "has_more": False})

    assert await Ledgers(odd, clock=world.clock).charges(START - 365 * DAY, START + 365 * DAY) == []
