"""A dispatcher on a real store, with scripted destinations and a clock that jumps to the next wake-up."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from harness.clock import FakeClock
from harness.factories import a_task, an_event
from harness.sqlite_template import open_store
from harness.stored_events import check_stored_events
from harness.waiting import wait_until

from receiver.delivery.commit_claims import ClaimingTaskStore, CommitClaims
from receiver.delivery.lane import Lane
from receiver.delivery.retry import RetryPolicy
from receiver.delivery.senders.sender import DeliveryRequest
from receiver.domain.clock import Ids
from receiver.domain.duties import ALWAYS, ALWAYS_HELD, Duty
from receiver.domain.model import Accepted, Attempt, Delivery, DeliveryStatus, Event, Failed, Outcome
from receiver.domain.notifier import Notifiers
from receiver.domain.rate_limiter import RateLimiter
from receiver.service.context import make_context
from receiver.service.wiring import build_deliveries
from receiver.settings import RouteSettings, Settings, WebhookSettings
from receiver.store.interfaces import ById, Change, DeliveryQueue, DeliveryView
from receiver.tracking.notifications import notify_workers

if TYPE_CHECKING:
    from receiver.delivery.dispatcher import Dispatcher
    from receiver.delivery.replay import ReplayService
    from receiver.delivery.route_states import RouteStates
    from receiver.store.sqlite.store import SqliteStore

SCHEDULE = [timedelta(seconds=seconds) for seconds in (5, 30, 120, 600, 1800, 3600)]
FAILED = Failed(reason="500: it has trouble.", code=500)
TIMEOUT = timedelta(seconds=15)
SECOND = timedelta(seconds=1)
ALERT_ROUTE = RouteSettings(
    name="alerts", on=frozenset({"alert"}), webhook=WebhookSettings(url="https://app.example.com/")
)


class SteppedClock(FakeClock):
    """A fake clock that knows all waits, so that a test can jump to the next wake-up."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: dict[asyncio.Event, datetime | None] = {}

    async def wait(self, event: asyncio.Event, *, until: datetime | None = None) -> bool:
        self.waits[event] = until
        try:
            return await super().wait(event, until=until)
        finally:
            del self.waits[event]

    @property
    def next_wakeup(self) -> datetime | None:
        """The earliest time that a wait ends, or None."""
        return min((moment for moment in self.waits.values() if moment is not None), default=None)


@dataclass
class Destination:
    """Accepts requests, answers as set, and records each request with its time."""

    clock: FakeClock
    respond: Callable[[DeliveryRequest], Outcome] = lambda _: Accepted(code=204)
    timeout: timedelta = TIMEOUT
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    gates: dict[str, asyncio.Event] = field(default_factory=dict)  # gates of single events
    attempts: list[tuple[datetime, DeliveryRequest]] = field(default_factory=list)
    waiting: list[asyncio.Event] = field(default_factory=list)
    max_concurrent: int = 0

    def __post_init__(self) -> None:
        self.gate.set()

    async def preview(self, event: Event) -> bytes:
        return event.envelope

    async def send(self, request: DeliveryRequest) -> Outcome:
        self.attempts.append((self.clock.now(), request))
        gate = self.gates.get(request.event.id, self.gate)
        self.waiting.append(gate)
        self.max_concurrent = max(self.max_concurrent, len(self.waiting))
        try:
            await gate.wait()
        finally:
            self.waiting.remove(gate)
        return self.respond(request)

    async def aclose(self) -> None:
        """Do nothing."""

    @property
    def blocked(self) -> int:
        """The number of attempts that wait for a closed gate."""
        return sum(not gate.is_set() for gate in self.waiting)

    @property
    def attempt_times(self) -> list[datetime]:
        return [moment for moment, _ in self.attempts]

    @property
    def event_ids(self) -> list[str]:
        return [request.event.id for _, request in self.attempts]


class DeliverySystem:
    """A dispatcher, a replay service and accessors for tests."""

    routes: tuple[RouteSettings, ...] = (ALERT_ROUTE,)

    def __init__(self, path: Path) -> None:
        self.clock = SteppedClock()
        self.ids = Ids(self.clock)
        self.notifiers = Notifiers()
        self.lanes: dict[str, Lane] = {}
        self.tenure = ALWAYS
        self.destinations: dict[str, Destination] = {}
        self._path = path
        self._stop = asyncio.Event()
        self.store: SqliteStore
        self.commit_claims: CommitClaims
        self.route_states: RouteStates
        self.dispatcher: Dispatcher
        self.replayer: ReplayService
        self.running: list[asyncio.Task[None]] = []

    def add_route(
        self,
        name: str = "publish",
        *,
        concurrency: int = 1,
        rate: RateLimiter | None = None,
        give_up_after: timedelta = timedelta(hours=96),
    ) -> Destination:
        """Add a lane with its own destination."""
        there = self.destinations[name] = Destination(self.clock)
        policy = RetryPolicy(schedule=SCHEDULE, give_up_after=give_up_after)
        self.lanes[name] = Lane(sender=there, policy=policy, concurrency=concurrency, rate=rate)
        return there

    async def start(
        self,
        *,
        grace: timedelta = timedelta(seconds=5),
        wrap_queue: Callable[[DeliveryQueue], DeliveryQueue] = lambda queue: queue,
    ) -> None:
        """Open the store and start, like a new process. *wrap_queue* may wrap the dispatcher's queue."""
        self.store = await open_store(self._path, clock=self.clock)
        queue = wrap_queue(self.store.deliveries)
        kling: Any = None  # deliveries need no Kling
        context = make_context(
            Settings(routes=self.routes),
            self.store,
            kling,
            clock=self.clock,
            ids=self.ids,
            rng=Random(7),
            tenures={**ALWAYS_HELD, Duty.DELIVERING: self.tenure},
        )
        self.notifiers = context.notifiers
        self.commit_claims = context.commit_claims
        services = build_deliveries(context, self.lanes.get, queue=queue, grace=grace)
        self.alert_factory = context.alerts
        self.route_states = services.route_states
        self.dispatcher = services.dispatcher
        self.replayer = services.replays
        self._stop = asyncio.Event()
        self.running = [asyncio.create_task(each.run(self._stop)) for each in (self.dispatcher, self.replayer)]
        await self.settle()

    async def stop(self) -> None:
        """Stop in order."""
        self._stop.set()
        self.notifiers.notify_all()
        await asyncio.gather(*self.running)
        await check_stored_events(self.store, only="alert.")
        await self.store.aclose()

    async def crash(self) -> None:
        """Stop like a crash: attempts in flight get no verdict."""
        ends = [*self.running, *self.dispatcher._attempts]
        self.notifiers = Notifiers()  # for the next process
        await self.store.aclose()
        for end in ends:
            end.cancel()
        await asyncio.gather(*ends, return_exceptions=True)

    async def settle(self) -> None:
        """Wait until all work that is due now is done."""
        await wait_until(self._is_quiet)

    def _is_quiet(self) -> bool:
        for each in self.running:
            if each.done():
                raise AssertionError(f"a worker has ended: {each.exception()!r}")
        stuck = sum(there.blocked for there in self.destinations.values())
        retrying = len(self.dispatcher._attempts) - stuck  # records, which the store could not take
        if len(self.clock.waits) != len(self.running) + retrying:
            return False
        now = self.clock.now()
        return not any(wake.is_set() or (moment or now + SECOND) <= now for wake, moment in self.clock.waits.items())

    async def advance(self, by: timedelta) -> None:
        """Advance the clock, stopping whenever the dispatcher has something to do."""
        end = self.clock.now() + by
        while True:
            await self.settle()
            moment = self.clock.next_wakeup
            if moment is None or moment > end:
                break
            self.clock.advance(moment - self.clock.now())
        self.clock.advance(end - self.clock.now())
        await self.settle()

    async def add_events(
        self,
        count: int = 1,
        *,
        route: str = "publish",
        settle: bool = True,
        due_in: timedelta = timedelta(0),
        at_commit: bool = False,
    ) -> list[str]:
        """Add events for a route. Return their ids, oldest first.

        With *at_commit* those that find a free slot are claimed in the transaction that stores them.
        """
        if await self.store.catalog.task("tsk_1") is None:
            await self.store.tasks.add(a_task(), b"{}")
        now = self.clock.now()
        events: list[Event] = []
        deliveries: list[Delivery] = []
        for _ in range(count):
            event = an_event(self.ids.new("evt"), type="task.processing", created_at=now)
            events.append(event)
            deliveries.append(
                Delivery(
                    id=self.ids.new("dlv"),
                    event_id=event.id,
                    route=route,
                    status=DeliveryStatus.PENDING,
                    created_at=now,
                    due_at=now + due_in,
                )
            )
        claiming = ClaimingTaskStore(self.store.tasks, self.commit_claims, broken=self.store.broken)
        tasks = claiming if at_commit else self.store.tasks
        change = await tasks.apply(ById(id="tsk_1"), lambda *_: Change(events=events, deliveries=deliveries))
        assert change is not None
        notify_workers(self.notifiers, change, now=now)
        if settle:
            await self.settle()
        return [event.id for event in events]

    async def deliveries(self, route: str = "publish") -> list[DeliveryView]:
        """Return all deliveries of a route, oldest first."""
        return list(reversed((await self.store.catalog.deliveries(route=route, limit=500)).items))

    async def statuses(self, route: str = "publish") -> list[str]:
        return [view.delivery.status.value for view in await self.deliveries(route)]

    async def attempts(self, delivery_id: str) -> Sequence[Attempt]:
        return await self.store.catalog.attempts(delivery_id)

    async def alerts(self) -> list[str]:
        """Return the types of all alerts, oldest first."""
        events = (await self.store.catalog.events(limit=500)).items
        return [event.type for event in reversed(events) if event.type.startswith("alert.")]


@asynccontextmanager
async def a_delivery_system(folder: Path) -> AsyncIterator[DeliverySystem]:
    """Create a dispatcher. The test adds routes and starts it."""
    system = DeliverySystem(folder / "receiver.db")
    yield system
    for there in system.destinations.values():
        for gate in (there.gate, *there.gates.values()):
            gate.set()
    if not all(each.done() for each in system.running):
        await system.stop()
