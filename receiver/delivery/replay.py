"""Deliver events again on an operator's request: one delivery at once, or a rate-limited replay of many.

A finished delivery never changes: a replay creates a new delivery that points at the old one. A replay's progress is a
stored row. Each step and its deliveries are one transaction, so a replay resumes after a crash and repeats nothing.
"""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Protocol

import msgspec
import structlog
from msgspec.structs import replace

from receiver.domain.audit import AuditEntry
from receiver.domain.clock import Clock, Ids
from receiver.domain.errors import Conflict, InvalidRequest, NotFound, UnknownRoute
from receiver.domain.model import Delivery, DeliveryStatus
from receiver.domain.notifier import Notifiers
from receiver.domain.rate_limiter import RateLimiter
from receiver.domain.replays import Replay, ReplayCount, ReplayItem, ReplaySelection, ReplayState, ReplayStep
from receiver.domain.worker import run_worker
from receiver.events.replies import REPLY_PREFIX
from receiver.events.routing import WILDCARD
from receiver.settings import Rate, RouteSettings, Settings
from receiver.store.interfaces import Catalog, DeliveryView, Page

log = structlog.get_logger()

PREVIEW_SIZE = 10
_STEP_SIZE = 100
_RETRY_DELAY = timedelta(seconds=5)


class ReplayStore(Protocol):
    """The store of replays. Each call made for an operator writes an audit entry."""

    async def make_due(self, delivery_id: str, *, now: datetime, action: AuditEntry) -> bool:
        """Make a pending delivery due *now*. Return False if it is not pending or an attempt is in flight."""
        ...

    async def add_repeat(self, delivery: Delivery, *, action: AuditEntry) -> None:
        """Store a delivery that repeats an earlier one."""
        ...

    async def high_water_mark(self) -> str:
        """Return the newest ID of all events and deliveries, without prefix: the ``last`` of a new replay."""
        ...

    async def count(self, replay: Replay) -> Sequence[ReplayCount]:
        """Count the items that a stored or drafted replay has left."""
        ...

    async def next_items(self, replay: Replay, *, limit: int) -> Sequence[ReplayItem]:
        """Return the next items of a replay, oldest first, each event once per route."""
        ...

    async def add(self, replay: Replay, *, action: AuditEntry) -> None:
        """Store a replay."""
        ...

    async def advance(self, step: ReplayStep) -> bool:
        """Store a step's deliveries and the new cursor atomically. Return False if the replay changed meanwhile."""
        ...

    async def cancel(self, replay_id: str, *, now: datetime, action: AuditEntry) -> bool:
        """Cancel a running replay. Return False if it is not running."""
        ...

    async def running(self) -> Sequence[Replay]:
        """Return the running replays, oldest first."""
        ...

    async def find(self, replay_id: str) -> Replay | None:
        """Return a replay, or None."""
        ...

    async def list(self, *, limit: int = 50, cursor: str | None = None) -> Page[Replay]:
        """Return a page of replays, newest first."""
        ...


class ReplayPreview(msgspec.Struct, frozen=True, kw_only=True):
    """What a replay would deliver: counts, and the first few items."""

    total: int
    counts: Sequence[ReplayCount]
    sample: Sequence[ReplayItem]


class ReplayService:
    """Accepts retries and replays, and carries replays out step by step."""

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
        self._routes: Mapping[str, RouteSettings] = {route.name: route for route in routes}
        self._notifiers = notifiers
        self._clock = clock
        self._ids = ids
        self._rate_limiters: dict[str, RateLimiter] = {}

    def apply(self, settings: Settings) -> None:
        """Use the routes of *settings* for later requests."""
        self._routes = {route.name: route for route in settings.routes}

    async def retry(self, delivery_id: str, *, why: str, actor: str) -> DeliveryView:
        """Retry a pending delivery now; repeat a finished one as a new delivery with all its attempts left.

        Return the delivery that is due now. Raises NotFound, Conflict.
        """
        view = await self._delivery(delivery_id)
        old, now = view.delivery, self._clock.now()
        if not self._is_known_route(old.route):
            raise Conflict(
                f"Route {old.route} of this delivery is no longer configured.",
                remedy="Send the event to another route: `kling-receiver replay --event ID --to-route NAME`.",
            )
        action = AuditEntry(at=now, actor=actor, verb="delivery.retried", subject=old.id, reason=why)
        if old.status is DeliveryStatus.PENDING:
            if not await self._store.make_due(old.id, now=now, action=action):
                raise Conflict("An attempt is in progress.", remedy="Wait for it to finish, then retry.")
            again = old.id
        else:
            new = self._new_delivery(old.event_id, old.route, replay_of=old.id, now=now)
            await self._store.add_repeat(new, action=action)
            again = new.id
        self._notifiers.deliveries.notify()
        log.info("delivery.retried", delivery=old.id, anew=again if again != old.id else None, actor=actor)
        return await self._delivery(again)

    async def preview(self, selection: ReplaySelection) -> ReplayPreview:
        """Return what a replay would deliver. Raises InvalidRequest."""
        return await self._preview(await self._draft(selection))

    async def start(self, selection: ReplaySelection, *, rate: Rate | None, why: str, actor: str) -> Replay:
        """Store a replay and start it. Raises InvalidRequest."""
        draft = await self._draft(selection)
        total = sum(part.count for part in await self._store.count(draft))
        replay = replace(
            draft, total=total, why=why, actor=actor, rate=None if rate is None else (rate.count, rate.per)
        )
        action = AuditEntry(at=replay.created_at, actor=actor, verb="replay.started", subject=replay.id, reason=why)
        await self._store.add(replay, action=action)
        self._notifiers.replays.notify()
        log.info("replay.started", replay=replay.id, total=total, actor=actor)
        return replay

    async def cancel(self, replay_id: str, *, why: str, actor: str) -> Replay:
        """Cancel a replay. Deliveries it has created already continue. Raises NotFound, Conflict."""
        now = self._clock.now()
        action = AuditEntry(at=now, actor=actor, verb="replay.cancelled", subject=replay_id, reason=why)
        cancelled = await self._store.cancel(replay_id, now=now, action=action)
        replay = await self.find(replay_id)
        if not cancelled:
            raise Conflict(f"The replay is already {replay.state}.")
        log.info("replay.cancelled", replay=replay_id, created=replay.created, actor=actor)
        return replay

    async def find(self, replay_id: str) -> Replay:
        """Return a replay. Raises NotFound."""
        replay = await self._store.find(replay_id)
        if replay is None:
            raise NotFound(f"There is no replay {replay_id[:64]!r}.")
        return replay

    async def list(self, *, limit: int, cursor: str | None) -> Page[Replay]:
        """Return a page of replays, newest first."""
        return await self._store.list(limit=limit, cursor=cursor)

    async def run(self, stop: asyncio.Event) -> None:
        """Advance the running replays until *stop*."""
        wake = self._notifiers.replays.subscribe()
        for replay in await self._store.running():
            log.info("replay.resumed", replay=replay.id, created=replay.created, total=replay.total)
        await run_worker(
            self._advance_running, wake=wake, stop=stop, clock=self._clock, name="replay", retry_delay=_RETRY_DELAY
        )
        self._notifiers.replays.unsubscribe(wake)

    async def _advance_running(self) -> datetime | None:
        """Advance every running replay. Return when to continue, or None if none is running."""
        try:
            return min([await self._advance(replay) for replay in await self._store.running()], default=None)
        except Conflict as exc:  # an event was deleted meanwhile
            log.warning("replay.delayed", reason=exc.message)
            return self._clock.now() + _RETRY_DELAY

    async def _advance(self, replay: Replay) -> datetime:
        """Create the next deliveries of a replay, within its rate. Return when to continue."""
        now, limiter = self._clock.now(), self._rate_limiter(replay)
        limit = _STEP_SIZE if limiter is None else min(_STEP_SIZE, limiter.available(now))
        if limiter is not None and limit <= 0:
            return limiter.next_at(now)
        found = await self._store.next_items(replay, limit=limit)
        deliveries = [
            self._new_delivery(item.event_id, item.route, replay_of=item.replay_of, now=now) for item in found
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
        if limiter is not None:
            limiter.acquire(len(found), now)
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
        """Check that every selected event has a configured route, and add the known routes and event kinds."""
        if selection == ReplaySelection(to_route=selection.to_route):
            raise InvalidRequest(
                "Refusing to replay everything.",
                remedy="Select by route, status, task, event, delivery or start time.",
            )
        if DeliveryStatus.PENDING in selection.statuses:
            raise InvalidRequest(
                "Pending deliveries cannot be replayed: they are retried automatically.",
                remedy="To retry now: `kling-receiver deliveries retry ID` or `kling-receiver routes release NAME`.",
            )
        if selection.to_route is not None and selection.to_route not in self._routes:
            raise UnknownRoute(
                f"There is no route {selection.to_route!r} to send to.",
                remedy="List the routes with `kling-receiver routes list`.",
            )
        if selection.to_route is None and selection.route is not None and not self._is_known_route(selection.route):
            raise UnknownRoute(
                f"There is no route {selection.route!r} any more.", remedy="Name a target route with `to_route`."
            )
        return replace(selection, known_routes=tuple(self._routes), event_kinds=self._event_kinds(selection))

    def _event_kinds(self, selection: ReplaySelection) -> tuple[str, ...]:
        """Return the event kinds of the target route; empty means all. Events selected by ID are always sent."""
        if selection.to_route is None or selection.events or WILDCARD in self._routes[selection.to_route].on:
            return ()
        return tuple(sorted(self._routes[selection.to_route].on))

    async def _preview(self, replay: Replay) -> ReplayPreview:
        counts = await self._store.count(replay)
        sample = await self._store.next_items(replay, limit=PREVIEW_SIZE)
        return ReplayPreview(total=sum(part.count for part in counts), counts=counts, sample=sample)

    async def _delivery(self, delivery_id: str) -> DeliveryView:
        view = await self._catalog.delivery(delivery_id)
        if view is None:
            raise NotFound(f"There is no delivery {delivery_id[:64]!r}.")
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
