"""Brings events out again on a person's word: one delivery at once, or a whole replay at its own pace.

What is over stays as it was: to go out again is a new delivery that points at the old one. A replay is a stored row
that says how far it has come; each step and its deliveries are one transaction, so that it goes on after a crash
where it was, and nothing of it goes out twice.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Protocol

import structlog

from receiver.domain.audit import AuditEntry
from receiver.domain.clock import Clock, Ids
from receiver.domain.errors import Conflict, InvalidRequest, NotFound, StoreUnavailable
from receiver.domain.model import Delivery, DeliveryStatus
from receiver.domain.notifier import Notifiers
from receiver.domain.rate_limiter import RateLimiter
from receiver.domain.replays import Replay, ReplayCount, ReplayItem, ReplaySelection, ReplayState, ReplayStep
from receiver.events.routing import REPLY_PREFIX, WILDCARD
from receiver.settings import Rate, RouteSettings
from receiver.store.interfaces import Catalog, DeliveryView, Page

log = structlog.get_logger()

PREVIEW_SIZE = 10
_STEP_SIZE = 100
_RETRY_DELAY = timedelta(seconds=5)


class ReplayStore(Protocol):
    """What a store keeps of it. Each call that a person is behind writes down who that was."""

    async def make_due(self, delivery_id: str, *, now: datetime, action: AuditEntry) -> bool:
        """Make a waiting delivery due *now*; False where it does not wait, or is being tried."""
        ...

    async def add_repeat(self, delivery: Delivery, *, action: AuditEntry) -> None:
        """Store a delivery that points at the one it repeats."""
        ...

    async def high_water_mark(self) -> str:
        """Tell where the present ends: what a replay's ``last`` is to be."""
        ...

    async def count(self, replay: Replay) -> Sequence[ReplayCount]:
        """Count what a replay, stored or only thought of, has before it."""
        ...

    async def next_items(self, replay: Replay, *, limit: int) -> Sequence[ReplayItem]:
        """Give what a replay has before it, oldest first, each event once for each route."""
        ...

    async def add(self, replay: Replay, *, action: AuditEntry) -> None:
        """Store a replay."""
        ...

    async def advance(self, step: ReplayStep) -> bool:
        """Store a step's deliveries and how far it went, all or nothing; False where the replay moved meanwhile."""
        ...

    async def cancel(self, replay_id: str, *, now: datetime, action: AuditEntry) -> bool:
        """End a replay before its end; False where it is not under way."""
        ...

    async def running(self) -> Sequence[Replay]:
        """Give the replays that are under way, oldest first."""
        ...

    async def find(self, replay_id: str) -> Replay | None:
        """Find a replay."""
        ...

    async def list(self, *, limit: int = 50, cursor: str | None = None) -> Page[Replay]:
        """List replays, newest first."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayPreview:
    """What a replay would bring out: how much of what, and the first few of it."""

    total: int
    counts: Sequence[ReplayCount]
    sample: Sequence[ReplayItem]


class ReplayService:
    """Takes wishes for events to go out again, and sees to them."""

    def __init__(
        self,
        store: ReplayStore,
        catalog: Catalog,
        *,
        routes: Sequence[RouteSettings],
        notifiers: Notifiers,
        clock: Clock,
        ids: Ids,
    ) -> None:
        self._store = store
        self._catalog = catalog
        self._routes = {route.name: route for route in routes}
        self._notifiers = notifiers
        self._clock = clock
        self._ids = ids
        self._rate_limiters: dict[str, RateLimiter] = {}

    async def retry(self, delivery_id: str, *, why: str, actor: str) -> DeliveryView:
        """Have a delivery tried now: itself while it waits, else anew, with nothing spent.

        Gives the delivery that goes out. Raises NotFound, Conflict.
        """
        view = await self._delivery(delivery_id)
        old, now = view.delivery, self._clock.now()
        if not self._is_known_route(old.route):
            raise Conflict(
                f"Its route {old.route} is not in the configuration any more.",
                remedy="Bring the event to another route: kling-receiver replay --event ID --to-route NAME.",
            )
        action = AuditEntry(at=now, actor=actor, verb="delivery.retried", subject=old.id, reason=why)
        if old.status is DeliveryStatus.PENDING:
            if not await self._store.make_due(old.id, now=now, action=action):
                raise Conflict("It is being tried at this moment.", remedy="Look at what comes of it first.")
            again = old.id
        else:
            new = self._new_delivery(old.event_id, old.route, replay_of=old.id, now=now)
            await self._store.add_repeat(new, action=action)
            again = new.id
        self._notifiers.deliveries.notify()
        log.info("delivery.retried", delivery=old.id, anew=again if again != old.id else None, actor=actor)
        return await self._delivery(again)

    async def preview(self, selection: ReplaySelection) -> ReplayPreview:
        """Tell what a replay would bring out. Raises InvalidRequest."""
        return await self._preview(await self._draft(selection))

    async def start(self, selection: ReplaySelection, *, rate: Rate | None, why: str, actor: str) -> Replay:
        """Store a replay, and begin. Raises InvalidRequest."""
        thought = await self._draft(selection)
        total = sum(tally.count for tally in await self._store.count(thought))
        replay = replace(
            thought, total=total, why=why, actor=actor, rate=None if rate is None else (rate.count, rate.per)
        )
        action = AuditEntry(at=replay.created_at, actor=actor, verb="replay.started", subject=replay.id, reason=why)
        await self._store.add(replay, action=action)
        self._notifiers.replays.notify()
        log.info("replay.started", replay=replay.id, total=total, actor=actor)
        return replay

    async def cancel(self, replay_id: str, *, why: str, actor: str) -> Replay:
        """Stop a replay; what it has brought out already goes on. Raises NotFound, Conflict."""
        now = self._clock.now()
        action = AuditEntry(at=now, actor=actor, verb="replay.cancelled", subject=replay_id, reason=why)
        cancelled = await self._store.cancel(replay_id, now=now, action=action)
        replay = await self.find(replay_id)
        if not cancelled:
            raise Conflict(f"The replay is {replay.state} already.")
        log.info("replay.cancelled", replay=replay_id, created=replay.created, actor=actor)
        return replay

    async def find(self, replay_id: str) -> Replay:
        """Find a replay. Raises NotFound."""
        replay = await self._store.find(replay_id)
        if replay is None:
            raise NotFound("There is no such replay.")
        return replay

    async def list(self, *, limit: int, cursor: str | None) -> Page[Replay]:
        """List replays, newest first."""
        return await self._store.list(limit=limit, cursor=cursor)

    async def run(self, stop: asyncio.Event) -> None:
        """Go on with all replays that are under way, until *stop*."""
        bell = self._notifiers.replays.subscribe()
        for replay in await self._store.running():
            log.info("replay.resumed", replay=replay.id, created=replay.created, total=replay.total)
        while not stop.is_set():
            bell.clear()
            try:
                again = [await self._advance(replay) for replay in await self._store.running()]
            except (StoreUnavailable, Conflict) as exc:  # a full disk; an event that was taken away meanwhile
                log.warning("replay.delayed", reason=exc.message)
                again = [self._clock.now() + _RETRY_DELAY]
            await self._clock.wait(bell, until=min(again, default=None))
        self._notifiers.replays.unsubscribe(bell)

    async def _advance(self, replay: Replay) -> datetime:
        """Bring out as much of a replay as may go now; tell when to look at it again."""
        now, pace = self._clock.now(), self._rate_limiter(replay)
        limit = _STEP_SIZE if pace is None else min(_STEP_SIZE, pace.available(now))
        if pace is not None and limit <= 0:
            return pace.next_at(now)
        found = await self._store.next_items(replay, limit=limit)
        deliveries = [
            self._new_delivery(again.event_id, again.route, replay_of=again.replay_of, now=now) for again in found
        ]
        is_over = len(found) < limit
        step = ReplayStep(
            replay=replay,
            deliveries=deliveries,
            cursor=found[-1].position if found else replay.cursor,
            finished_at=now if is_over else None,
        )
        if not await self._store.advance(step):
            return now
        if pace is not None:
            pace.acquire(len(found), now)
        self._notifiers.deliveries.notify()
        if is_over:
            self._rate_limiters.pop(replay.id, None)
            log.info("replay.finished", replay=replay.id, created=replay.created + len(found))
        return now

    async def _draft(self, selection: ReplaySelection) -> Replay:
        """Make a replay that is only thought of."""
        selection = self._validated(selection)
        return Replay(
            id=self._ids.new("rpl"),
            state=ReplayState.RUNNING,
            selection=selection,
            actor="",
            why="",
            last=await self._store.high_water_mark(),
            total=0,
            created_at=self._clock.now(),
        )

    def _validated(self, selection: ReplaySelection) -> ReplaySelection:
        """See to it that all that is chosen leads somewhere, and fill in what the configuration knows."""
        if selection == ReplaySelection(to_route=selection.to_route):
            raise InvalidRequest(
                "A replay of everything there ever was is not done.",
                remedy="Say what: a route, a status, a task, an event, a delivery, or from when.",
            )
        if DeliveryStatus.PENDING in selection.statuses:
            raise InvalidRequest(
                "What is pending goes out by itself.",
                remedy="To have it tried now: kling-receiver deliveries retry ID, or routes release NAME.",
            )
        if selection.to_route is not None and selection.to_route not in self._routes:
            raise InvalidRequest(f"There is no route {selection.to_route!r} to go to.")
        if selection.to_route is None and selection.route is not None and not self._is_known_route(selection.route):
            raise InvalidRequest(
                f"There is no route {selection.route!r} any more.", remedy="Say where its events go with to_route."
            )
        return replace(selection, known_routes=tuple(self._routes), event_kinds=self._event_kinds(selection))

    def _event_kinds(self, selection: ReplaySelection) -> tuple[str, ...]:
        """Tell which words of events a route asks for; what is named one by one goes there whatever its word."""
        if selection.to_route is None or selection.events or WILDCARD in self._routes[selection.to_route].on:
            return ()
        return tuple(sorted(self._routes[selection.to_route].on))

    async def _preview(self, replay: Replay) -> ReplayPreview:
        tallies = await self._store.count(replay)
        sample = await self._store.next_items(replay, limit=PREVIEW_SIZE)
        return ReplayPreview(total=sum(tally.count for tally in tallies), counts=tallies, sample=sample)

    async def _delivery(self, delivery_id: str) -> DeliveryView:
        view = await self._catalog.delivery(delivery_id)
        if view is None:
            raise NotFound("There is no such delivery.")
        return view

    def _is_known_route(self, route: str) -> bool:
        return route in self._routes or route.startswith(REPLY_PREFIX)

    def _rate_limiter(self, replay: Replay) -> RateLimiter | None:
        if replay.rate is None:
            return None
        count, per = replay.rate
        return self._rate_limiters.setdefault(replay.id, RateLimiter(count=count, per=per))

    def _new_delivery(self, event_id: str, route: str, *, replay_of: str | None, now: datetime) -> Delivery:
        return Delivery(
            id=self._ids.new("dlv"),
            event_id=event_id,
            route=route,
            status=DeliveryStatus.PENDING,
            created_at=now,
            due_at=now,
            replay_of=replay_of,
        )
