"""The daily report: once for each local day, through restarts, with what happened since the last one."""

import asyncio
import json
from datetime import UTC, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from harness.clock import FakeClock
from harness.factories import a_delivery, a_task, an_event
from harness.store_fixtures import AnyStore
from harness.waiting import wait_until

from receiver.domain.api_schema.events import Event as EventSchema
from receiver.domain.clock import Ids
from receiver.domain.costs import Cost
from receiver.domain.model import DeliveryStatus, HeldBy, RouteState, TaskState
from receiver.domain.notifier import Notifiers
from receiver.events.factory import EventFactory
from receiver.events.routing import compile_routes
from receiver.settings import RouteSettings, WebhookSettings
from receiver.store.interfaces import ById, Change, Total
from receiver.tasks.daily_report import DailyReports

DAY = timedelta(days=1)
ROUTES = [
    RouteSettings(name=name, on=frozenset(on), webhook=WebhookSettings(url="https://x.example"))
    for name, on in (("reports", {"report"}), ("alerts", {"alert"}), ("all", {"*"}))
]


@pytest.fixture
def store(any_store: AnyStore) -> AnyStore:
    return any_store


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(datetime(2026, 11, 22, 10, tzinfo=UTC))


def reports(store: AnyStore, clock: FakeClock, zone: Any = UTC) -> DailyReports:
    """A new process's reports, at 08:00."""
    factory = EventFactory(compile_routes(ROUTES), Ids(clock))
    return DailyReports(store.reports, factory, at=time(8), notifiers=Notifiers(), clock=clock, zone=zone)


async def published(store: AnyStore) -> list[Any]:
    """The published reports, newest first."""
    found = await store.catalog.events(types=["report.daily"])
    return [json.loads(event.envelope) for event in found.items]


async def test_a_report_is_published_once_for_each_local_day_through_restarts(
    store: AnyStore, clock: FakeClock
) -> None:
    due = []
    for _ in range(4 * 24):
        due.append(await reports(store, clock).publish_due())
        clock.advance(timedelta(hours=1))

    days = [each["data"]["day"] for each in await published(store)]
    assert days == ["2026-11-26", "2026-11-25", "2026-11-24", "2026-11-23"]
    assert [hour for hour, is_due in enumerate(due) if is_due] == [22, 46, 70, 94]


async def test_a_report_that_was_missed_is_published_at_the_next_start(store: AnyStore, clock: FakeClock) -> None:
    await reports(store, clock).publish_due()
    clock.advance(3 * DAY + timedelta(hours=5))

    assert await reports(store, clock).publish_due()

    (report,) = await published(store)
    assert (report["data"]["day"], report["data"]["since"]) == ("2026-11-25", "2026-11-22T10:00:00.000Z")


async def test_a_report_follows_the_local_day(store: AnyStore, clock: FakeClock) -> None:
    zone = timezone(timedelta(hours=9))  # it is 19:00 there
    await reports(store, clock, zone).publish_due()

    clock.advance(timedelta(hours=12, minutes=59))
    early = await reports(store, clock, zone).publish_due()
    clock.advance(timedelta(minutes=1))

    assert (early, await reports(store, clock, zone).publish_due()) == (False, True)


async def test_a_change_of_summer_time_neither_repeats_nor_skips_a_report(store: AnyStore) -> None:
    clock, zone = FakeClock(datetime(2026, 10, 23, 10, tzinfo=UTC)), ZoneInfo("Europe/Berlin")
    for _ in range(4 * 24):
        await reports(store, clock, zone).publish_due()
        clock.advance(timedelta(hours=1))

    assert [(each["data"]["day"], each["timestamp"][11:16]) for each in await published(store)] == [
        ("2026-10-27", "07:00"),
        ("2026-10-26", "07:00"),
        ("2026-10-25", "07:00"),
        ("2026-10-24", "06:00"),
    ]


async def test_a_clock_set_back_repeats_no_report(store: AnyStore, clock: FakeClock) -> None:
    for step in (DAY, DAY, -DAY, timedelta(hours=1), -DAY):
        await reports(store, clock).publish_due()
        clock.advance(step)
    await reports(store, clock).publish_due()

    assert len({each["data"]["day"] for each in await published(store)}) == len(await published(store)) == 2


async def test_a_report_says_what_happened_since_the_last_one(store: AnyStore, clock: FakeClock) -> None:
    await store.totals.raise_to(Total.CALLBACKS_MISSED, 5)
    await reports(store, clock).publish_due()
    ids, ended_at = Ids(clock), clock.now() + timedelta(hours=1)
    clock.advance(timedelta(hours=1))
    task = a_task(state=TaskState.SUCCEED, due_at=None, updated_at=ended_at)
    await store.tasks.add(task, b"{}")
    event = an_event(ids.new("evt"), created_at=ended_at)
    cost = Cost(charges={"units": Decimal("1.50")}, raw="{}")
    await store.tasks.apply(ById(id="tsk_1"), lambda *_: Change(task=task, cost=cost, events=[event]))
    dead = a_delivery(event_id=event.id, route="app", status=DeliveryStatus.DEAD, finished_at=ended_at)
    await store.tasks.add_events([], [dead, a_delivery("dlv_2", event_id=event.id, route="mail")])
    await store.deliveries.save_route(
        RouteState(name="mail", held_at=ended_at, held_by=HeldBy.FAILURES, held_why="HTTP 500")
    )
    await store.totals.raise_to(Total.CALLBACKS_MISSED, 7)
    clock.advance(DAY)

    assert await reports(store, clock).publish_due()

    (report,) = await published(store)
    data = report["data"]
    assert EventSchema.model_validate(report).root.type == "report.daily"
    assert (data["ended"], data["spent"], data["dead"]) == ({"succeed": 1}, {"units": "1.50"}, {"app": 1})
    assert (data["callbacks_missed"], data["pending"]) == (2, 1)
    assert data["held"] == [{"route": "mail", "since": "2026-11-22T11:00:00.000Z", "why": "HTTP 500"}]
    assert data["message"] == (
        "Tasks ended: 1 succeed. Spent: 1.50 units. Dead deliveries: 1. Missed callbacks: 2. Held routes: mail. "
        "Pending deliveries: 1. Open alerts: 0."
    )


async def test_only_routes_that_want_reports_receive_one(store: AnyStore, clock: FakeClock) -> None:
    await reports(store, clock).publish_due()
    clock.advance(DAY)
    await reports(store, clock).publish_due()

    assert sorted(view.delivery.route for view in (await store.catalog.deliveries()).items) == ["all", "reports"]


async def test_a_running_service_publishes_each_report_when_it_is_due(store: AnyStore, clock: FakeClock) -> None:
    stop = asyncio.Event()
    running = asyncio.create_task(reports(store, clock).run(stop))
    await wait_until(lambda: has_begun(store))

    clock.advance(timedelta(hours=22))
    await wait_until(lambda: has_report(store))
    stop.set()
    await running

    assert [each["data"]["day"] for each in await published(store)] == ["2026-11-23"]


async def has_begun(store: AnyStore) -> bool:
    return await store.reports.last() is not None


async def has_report(store: AnyStore) -> bool:
    return bool(await published(store))
