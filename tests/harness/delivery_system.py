"""A dispatcher over a real store, with destinations that answer as told and time that jumps from deed to deed."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from random import Random

from harness.factories import a_task, an_event
from harness.support import FakeClock, wait_until

from receiver.delivery.dispatcher import Dispatcher, Lane
from receiver.delivery.replay import ReplayService
from receiver.delivery.retry import RetryPolicy
from receiver.delivery.route_states import RouteStates
from receiver.delivery.senders.sender import DeliveryRequest
from receiver.domain.clock import Ids
from receiver.domain.model import Accepted, Attempt, Delivery, DeliveryStatus, Event, Failed, Outcome
from receiver.domain.notifier import Notifiers
from receiver.domain.rate_limiter import RateLimiter
from receiver.events.alerts import AlertFactory
from receiver.events.factory import EventFactory
from receiver.events.routing import Route, RouteTable
from receiver.settings import RouteSettings
from receiver.store.interfaces import ById, Change, DeliveryQueue, DeliveryView
from receiver.store.sqlite.store import SqliteStore

SCHEDULE = [timedelta(seconds=seconds) for seconds in (5, 30, 120, 600, 1800, 3600)]
FAILED = Failed(reason="500: it has trouble.", code=500)
TIMEOUT = timedelta(seconds=15)
SECOND = timedelta(seconds=1)


class SteppedClock(FakeClock):
    """A clock that knows what is waited for, and by how many, so that a test can go straight there."""

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
        """The first moment that anybody waits for."""
        return min((moment for moment in self.waits.values() if moment is not None), default=None)


@dataclass
class Destination:
    """Takes what is sent, answers as told, and keeps what came, each with its moment."""

    clock: FakeClock
    respond: Callable[[DeliveryRequest], Outcome] = lambda _: Accepted(code=204)
    timeout: timedelta = TIMEOUT
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    gates: dict[str, asyncio.Event] = field(default_factory=dict)  # of single events, where they have one
    attempts: list[tuple[datetime, DeliveryRequest]] = field(default_factory=list)
    waiting: list[asyncio.Event] = field(default_factory=list)
    max_concurrent: int = 0

    def __post_init__(self) -> None:
        self.gate.set()

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
        """Nothing to let go of."""

    @property
    def blocked(self) -> int:
        """How many attempts wait for a gate to open."""
        return sum(not gate.is_set() for gate in self.waiting)

    @property
    def attempt_times(self) -> list[datetime]:
        return [moment for moment, _ in self.attempts]

    @property
    def event_ids(self) -> list[str]:
        return [parcel.event.id for _, parcel in self.attempts]


class DeliverySystem:
    """A dispatcher, a replayer beside it, and all that a test wants to know of them."""

    routes: Sequence[RouteSettings] = ()

    def __init__(self, path: Path) -> None:
        self.clock = SteppedClock()
        self.ids = Ids(self.clock)
        self.notifiers = Notifiers()
        self.lanes: dict[str, Lane] = {}
        self.destinations: dict[str, Destination] = {}
        self._path = path
        self._stop = asyncio.Event()
        self.store: SqliteStore
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
        """Make a lane that leads to a destination of its own."""
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
        """Open the store and start, as a new process does; the dispatcher sees the store *through* something."""
        self.store = await SqliteStore.open(self._path, clock=self.clock)
        queue = wrap_queue(self.store)
        routes = [
            Route(name="alerts", on=frozenset({"alert"}), endpoints=(), unverified=False, where=None, condition=None)
        ]
        self.alert_factory = AlertFactory(EventFactory(RouteTable(routes), self.ids), clock=self.clock)
        self.route_states = RouteStates(queue, self.alert_factory, notifiers=self.notifiers, clock=self.clock)
        self.dispatcher = Dispatcher(
            queue,
            self.lanes.get,
            self.route_states,
            notifier=self.notifiers.deliveries,
            clock=self.clock,
            ids=self.ids,
            rng=Random(7),
            grace=grace,
        )
        self._stop = asyncio.Event()
        self.replayer = ReplayService(
            self.store.replays, self.store, routes=self.routes, notifiers=self.notifiers, clock=self.clock, ids=self.ids
        )
        self.running = [asyncio.create_task(each.run(self._stop)) for each in (self.dispatcher, self.replayer)]
        await self.settle()

    async def stop(self) -> None:
        """Stop in good order."""
        self._stop.set()
        self.notifiers.notify_all()
        await asyncio.gather(*self.running)
        await self.store.aclose()

    async def crash(self) -> None:
        """End without order: whatever is under way comes to no verdict."""
        ends = [*self.running, *self.dispatcher._attempts]
        self.notifiers = Notifiers()  # those of the next process
        await self.store.aclose()
        for end in ends:
            end.cancel()
        await asyncio.gather(*ends, return_exceptions=True)

    async def settle(self) -> None:
        """Wait until nothing more happens at this moment."""
        await wait_until(self._is_quiet)

    def _is_quiet(self) -> bool:
        for each in self.running:
            if each.done():
                raise AssertionError(f"a part has ended: {each.exception()!r}")
        stuck = sum(there.blocked for there in self.destinations.values())
        if len(self.clock.waits) != len(self.running) or len(self.dispatcher._attempts) != stuck:
            return False
        now = self.clock.now()
        return not any(wake.is_set() or (moment or now + SECOND) <= now for wake, moment in self.clock.waits.items())

    async def advance(self, by: timedelta) -> None:
        """Let time pass, stopping wherever the dispatcher has something to do."""
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
        self, count: int = 1, *, route: str = "publish", settle: bool = True, due_in: timedelta = timedelta(0)
    ) -> list[str]:
        """Bring events in for a route, and give their ids, oldest first."""
        if await self.store.task("tsk_1") is None:
            await self.store.add(a_task(), b"{}")
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
        await self.store.apply(ById(id="tsk_1"), lambda *_: Change(events=events, deliveries=deliveries))
        self.notifiers.deliveries.notify()
        if settle:
            await self.settle()
        return [event.id for event in events]

    async def deliveries(self, route: str = "publish") -> list[DeliveryView]:
        """Give all deliveries of a route, oldest first."""
        return list(reversed((await self.store.deliveries(route=route, limit=500)).items))

    async def statuses(self, route: str = "publish") -> list[str]:
        return [view.delivery.status.value for view in await self.deliveries(route)]

    async def attempts(self, delivery_id: str) -> Sequence[Attempt]:
        return await self.store.attempts(delivery_id)

    async def alerts(self) -> list[str]:
        """Give the alerts there were, oldest first."""
        events = (await self.store.events(limit=500)).items
        return [event.type for event in reversed(events) if event.type.startswith("alert.")]


@asynccontextmanager
async def a_delivery_system(folder: Path) -> AsyncIterator[DeliverySystem]:
    """Set a dispatcher up; the test makes its routes and starts it."""
    system = DeliverySystem(folder / "receiver.db")
    yield system
    for there in system.destinations.values():
        for gate in (there.gate, *there.gates.values()):
            gate.set()
    if not all(each.done() for each in system.running):
        await system.stop()
