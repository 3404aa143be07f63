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

from receiver.delivery.retry import Pace
from receiver.domain.clock import Clock, Ids
from receiver.domain.errors import Conflict, InvalidRequest, NotFound, StoreUnavailable
from receiver.domain.model import Delivery, DeliveryStatus
from receiver.domain.notifier import Bells
from receiver.domain.replays import Action, Again, Replay, ReplayState, Selection, Step, Tally
from receiver.events.routing import EVERYTHING, REPLY
from receiver.settings import Rate, RouteSettings
from receiver.store.interfaces import Catalog, DeliveryView, Page

log = structlog.get_logger()

SAMPLE = 10
_STEP = 100
_LOOK_AGAIN = timedelta(seconds=5)


class Replays(Protocol):
    """What a store keeps of it. Each call that a person is behind writes down who that was."""

    async def hurry(self, delivery_id: str, *, now: datetime, action: Action) -> bool:
        """Make a waiting delivery due *now*; False where it does not wait, or is being tried."""
        ...

    async def repeat(self, delivery: Delivery, *, action: Action) -> None:
        """Store a delivery that points at the one it repeats."""
        ...

    async def newest(self) -> str:
        """Tell where the present ends: what a replay's ``last`` is to be."""
        ...

    async def tally(self, replay: Replay) -> Sequence[Tally]:
        """Count what a replay, stored or only thought of, has before it."""
        ...

    async def chosen(self, replay: Replay, *, limit: int) -> Sequence[Again]:
        """Give what a replay has before it, oldest first, each event once for each route."""
        ...

    async def add(self, replay: Replay, *, action: Action) -> None:
        """Store a replay."""
        ...

    async def advance(self, step: Step) -> bool:
        """Store a step's deliveries and how far it went, all or nothing; False where the replay moved meanwhile."""
        ...

    async def cancel(self, replay_id: str, *, now: datetime, action: Action) -> bool:
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
class Outline:
    """What a replay would bring out: how much of what, and the first few of it."""

    total: int
    tallies: Sequence[Tally]
    sample: Sequence[Again]


class Replayer:
    """Takes wishes for events to go out again, and sees to them."""

    def __init__(
        self,
        replays: Replays,
        catalog: Catalog,
        *,
        routes: Sequence[RouteSettings],
        bells: Bells,
        clock: Clock,
        ids: Ids,
    ) -> None:
        self._replays = replays
        self._catalog = catalog
        self._routes = {route.name: route for route in routes}
        self._bells = bells
        self._clock = clock
        self._ids = ids
        self._paces: dict[str, Pace] = {}

    async def retry(self, delivery_id: str, *, why: str, actor: str) -> DeliveryView:
        """Have a delivery tried now: itself while it waits, else anew, with nothing spent.

        Gives the delivery that goes out. Raises NotFound, Conflict.
        """
        view = await self._delivery(delivery_id)
        old, now = view.delivery, self._clock.now()
        if not self._leads_somewhere(old.route):
            raise Conflict(
                f"Its route {old.route} is not in the configuration any more.",
                remedy="Bring the event to another route: kling-receiver replay --event ID --to-route NAME.",
            )
        action = Action(at=now, actor=actor, verb="delivery.retried", subject=old.id, note=why)
        if old.status is DeliveryStatus.PENDING:
            if not await self._replays.hurry(old.id, now=now, action=action):
                raise Conflict("It is being tried at this moment.", remedy="Look at what comes of it first.")
            again = old.id
        else:
            new = self._repeated(old.event_id, old.route, replay_of=old.id, now=now)
            await self._replays.repeat(new, action=action)
            again = new.id
        self._bells.deliveries.ring()
        log.info("delivery.retried", delivery=old.id, anew=again if again != old.id else None, actor=actor)
        return await self._delivery(again)

    async def outline(self, selection: Selection) -> Outline:
        """Tell what a replay would bring out. Raises InvalidRequest."""
        return await self._outline(await self._think(selection))

    async def start(self, selection: Selection, *, rate: Rate | None, why: str, actor: str) -> Replay:
        """Store a replay, and begin. Raises InvalidRequest."""
        thought = await self._think(selection)
        total = sum(tally.count for tally in await self._replays.tally(thought))
        replay = replace(
            thought, total=total, why=why, actor=actor, rate=None if rate is None else (rate.count, rate.per)
        )
        action = Action(at=replay.created_at, actor=actor, verb="replay.started", subject=replay.id, note=why)
        await self._replays.add(replay, action=action)
        self._bells.replays.ring()
        log.info("replay.started", replay=replay.id, total=total, actor=actor)
        return replay

    async def cancel(self, replay_id: str, *, why: str, actor: str) -> Replay:
        """Stop a replay; what it has brought out already goes on. Raises NotFound, Conflict."""
        now = self._clock.now()
        action = Action(at=now, actor=actor, verb="replay.cancelled", subject=replay_id, note=why)
        cancelled = await self._replays.cancel(replay_id, now=now, action=action)
        replay = await self.find(replay_id)
        if not cancelled:
            raise Conflict(f"The replay is {replay.state} already.")
        log.info("replay.cancelled", replay=replay_id, created=replay.created, actor=actor)
        return replay

    async def find(self, replay_id: str) -> Replay:
        """Find a replay. Raises NotFound."""
        replay = await self._replays.find(replay_id)
        if replay is None:
            raise NotFound("There is no such replay.")
        return replay

    async def list(self, *, limit: int, cursor: str | None) -> Page[Replay]:
        """List replays, newest first."""
        return await self._replays.list(limit=limit, cursor=cursor)

    async def run(self, stop: asyncio.Event) -> None:
        """Go on with all replays that are under way, until *stop*."""
        bell = self._bells.replays.listen()
        for replay in await self._replays.running():
            log.info("replay.resumed", replay=replay.id, created=replay.created, total=replay.total)
        while not stop.is_set():
            bell.clear()
            try:
                again = [await self._step(replay) for replay in await self._replays.running()]
            except (StoreUnavailable, Conflict) as exc:  # a full disk; an event that was taken away meanwhile
                log.warning("replay.delayed", reason=exc.message)
                again = [self._clock.now() + _LOOK_AGAIN]
            await self._clock.wait(bell, until=min(again, default=None))
        self._bells.replays.leave(bell)

    async def _step(self, replay: Replay) -> datetime:
        """Bring out as much of a replay as may go now; tell when to look at it again."""
        now, pace = self._clock.now(), self._pace(replay)
        limit = _STEP if pace is None else min(_STEP, pace.allowance(now))
        if pace is not None and limit <= 0:
            return pace.next_at(now)
        found = await self._replays.chosen(replay, limit=limit)
        deliveries = [
            self._repeated(again.event_id, again.route, replay_of=again.replay_of, now=now) for again in found
        ]
        is_over = len(found) < limit
        step = Step(
            replay=replay,
            deliveries=deliveries,
            cursor=found[-1].place if found else replay.cursor,
            finished_at=now if is_over else None,
        )
        if not await self._replays.advance(step):
            return now
        if pace is not None:
            pace.take(len(found), now)
        self._bells.deliveries.ring()
        if is_over:
            self._paces.pop(replay.id, None)
            log.info("replay.finished", replay=replay.id, created=replay.created + len(found))
        return now

    async def _think(self, selection: Selection) -> Replay:
        """Make a replay that is only thought of."""
        selection = self._checked(selection)
        return Replay(
            id=self._ids.new("rpl"),
            state=ReplayState.RUNNING,
            selection=selection,
            actor="",
            why="",
            last=await self._replays.newest(),
            total=0,
            created_at=self._clock.now(),
        )

    def _checked(self, selection: Selection) -> Selection:
        """See to it that all that is chosen leads somewhere, and fill in what the configuration knows."""
        if selection == Selection(to_route=selection.to_route):
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
        if selection.to_route is None and selection.route is not None and not self._leads_somewhere(selection.route):
            raise InvalidRequest(
                f"There is no route {selection.route!r} any more.", remedy="Say where its events go with to_route."
            )
        return replace(selection, among=tuple(self._routes), words=self._words(selection))

    def _words(self, selection: Selection) -> tuple[str, ...]:
        """Tell which words of events a route asks for; what is named one by one goes there whatever its word."""
        if selection.to_route is None or selection.events or EVERYTHING in self._routes[selection.to_route].on:
            return ()
        return tuple(sorted(self._routes[selection.to_route].on))

    async def _outline(self, replay: Replay) -> Outline:
        tallies = await self._replays.tally(replay)
        sample = await self._replays.chosen(replay, limit=SAMPLE)
        return Outline(total=sum(tally.count for tally in tallies), tallies=tallies, sample=sample)

    async def _delivery(self, delivery_id: str) -> DeliveryView:
        view = await self._catalog.delivery(delivery_id)
        if view is None:
            raise NotFound("There is no such delivery.")
        return view

    def _leads_somewhere(self, route: str) -> bool:
        return route in self._routes or route.startswith(REPLY)

    def _pace(self, replay: Replay) -> Pace | None:
        if replay.rate is None:
            return None
        count, per = replay.rate
        return self._paces.setdefault(replay.id, Pace(count=count, per=per))

    def _repeated(self, event_id: str, route: str, *, replay_of: str | None, now: datetime) -> Delivery:
        return Delivery(
            id=self._ids.new("dlv"),
            event_id=event_id,
            route=route,
            status=DeliveryStatus.PENDING,
            created_at=now,
            due_at=now,
            replay_of=replay_of,
        )
