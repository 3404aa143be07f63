"""Holds leases on duties, and runs their work while it holds them.

A lease is renewed every second or so. If that fails for too long, the work is cancelled before the lease ends, so
that another node can take the duty without an overlap. Waits use the monotonic clock; the store uses the database's.

The duty of sending is also taken as soon as the session of its holder has ended. That may be early, if the holder has
only lost this connection. So each of its starts is fenced: the store refuses it once another node has the duty.
"""

import asyncio
import random
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress

import structlog

from receiver.domain.duties import Duty
from receiver.domain.errors import NodeReplaced, ReceiverError, StoreUnavailable
from receiver.domain.worker import TaskSet
from receiver.service.nodes.duty_plan import DutyPlan, LeaseTiming
from receiver.service.nodes.duty_work import DutyWork
from receiver.service.nodes.node_session import NodeSession
from receiver.store.interfaces.nodes import Lease, NodeIdentity, NodeStore, NodesView

log = structlog.get_logger()

_SHORTEST_PAUSE = 0.05
_LEAVE_LIMIT = 2.0
_LONG_PAUSE = 2
"""After a pause of so many intervals, a node was cut off from the database, as others may have been."""


class DutyHolder:
    """Takes free duties, renews their leases, hands some over, and gives all back at the end."""

    def __init__(
        self,
        store: NodeStore,
        node: NodeIdentity,
        works: Mapping[Duty, DutyWork],
        session: NodeSession,
        *,
        before_start: Callable[[], Coroutine[object, object, None]],
        on_view: Callable[[NodesView], None],
        timing: LeaseTiming,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """*before_start* is awaited before the work of a duty starts; *on_view* gets each view of the nodes."""
        self._store = store
        self._node = node
        self._works = works
        self._session = session
        self._before_start = before_start
        self._on_view = on_view
        self._timing = timing
        self._monotonic = monotonic
        self._plan = DutyPlan(node.instance, timing)
        self._owned: set[Duty] = set()  # as of the last renewal
        self._lock = asyncio.Lock()  # one change of the leases at a time
        self._yielding: Duty | None = None  # the duty that is being handed over
        self._hand_overs = TaskSet("duty.not_handed_over")
        self._is_leaving = False
        self._is_cut_off = False
        self._renewed_at = monotonic()
        self._in_contact_since = float("-inf")
        self._abandoned: int | None = None  # the number of the lease whose holder's session had ended

    async def run(self, stop: asyncio.Event) -> None:
        """Do duties until *stop*; then finish what is in flight and give the duties back. Raises if a part fails."""
        session = asyncio.create_task(self._session.run(), name="session")
        parts = [
            asyncio.create_task(part(), name=part.__name__)
            for part in (self._beat_until_cancelled, self._watch, self._look_until_cancelled)
        ]
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait([session, *parts, stopping], return_when=asyncio.FIRST_COMPLETED)
            for task in (session, *parts):
                if task.done():
                    await task
            self._is_leaving = True
            await asyncio.gather(*(work.stop() for work in self._works.values()))
        finally:
            for work in self._works.values():
                work.abort()
            stopping.cancel()
            for task in parts:
                task.cancel()
            self._hand_overs.cancel()
            await asyncio.gather(*parts, return_exceptions=True)
            await asyncio.gather(*(work.ended() for work in self._works.values()))
            await self._leave()
            session.cancel()
            await asyncio.gather(session, return_exceptions=True)

    async def _beat_until_cancelled(self) -> None:
        while True:
            began = self._monotonic()
            try:
                async with asyncio.timeout(self._timing.lifetime.total_seconds()):
                    await self.beat()
            except (StoreUnavailable, TimeoutError) as exc:
                self._report_cut_off(exc)
            else:
                self._is_cut_off = False
            left = self._timing.interval.total_seconds() - (self._monotonic() - began)
            await asyncio.sleep(_SHORTEST_PAUSE)
            with suppress(TimeoutError):  # the leases say whether there is a session
                async with asyncio.timeout(max(left - _SHORTEST_PAUSE, 0)):
                    await self._session.changed.wait()
            self._session.changed.clear()

    async def beat(self) -> None:
        """Renew the leases, take free duties and hand one over if that is due. Raises StoreUnavailable."""
        async with self._lock:
            view = await self._renew()
            if not self._is_leaving:
                await self._take_free(view)
        duty = self._plan.to_hand_over(view, now=self._monotonic()) if self._yielding is None else None
        if duty is not None and not self._is_leaving:
            self._yielding = duty
            self._hand_overs.spawn(self._hand_over(duty))

    async def _renew(self) -> NodesView:
        began = self._monotonic()
        view = await self._store.renew(
            self._node, frozenset(self._owned), lifetime=self._timing.lifetime, has_session=self._session.is_open
        )
        if view is None:
            raise NodeReplaced(
                f"Another process has taken the name of this node, {self._node.name!r}.",
                remedy="Give each node a name of its own in [store] node.",
            )
        if began - self._renewed_at > _LONG_PAUSE * self._timing.interval.total_seconds():
            self._in_contact_since = self._monotonic()
        self._renewed_at = began
        await self._reconcile(view, began)
        self._on_view(view)
        return view

    async def _take_free(self, view: NodesView) -> None:
        contact = self._monotonic() - self._in_contact_since
        for lease in self._plan.to_take(view, may_replace=contact >= self._timing.lifetime.total_seconds()):
            await self._take(lease)

    async def _take(self, lease: Lease) -> None:
        began, lifetime, is_early = self._monotonic(), self._timing.lifetime, not lease.has_ended
        if not await self._store.take(
            self._node, lease.duty, epoch=lease.epoch, lifetime=lifetime, has_session=self._session.is_open
        ):
            return
        log.info("duty.taken", duty=lease.duty, epoch=lease.epoch + 1, from_node=lease.node, is_early=is_early)
        self._owned.add(lease.duty)
        tenure = self._works[lease.duty].tenure
        tenure.begin(lease.duty, self._node.instance, lease.epoch + 1)
        if is_early:
            tenure.overlaps_until = self._monotonic() + self._timing.overlap
        await self._extend(lease.duty, began)

    async def _look_until_cancelled(self) -> None:
        """Look often whether the session of the node that sends has ended. Nodes look at different moments."""
        while True:
            await asyncio.sleep(self._timing.look.total_seconds() * random.uniform(0.7, 1.0))  # noqa: S311 -- no secret
            with suppress(StoreUnavailable):  # then the lease ends by itself
                await self.look()

    async def look(self) -> None:
        """Take the duty of sending if the session of its holder had ended at the last look too."""
        if Duty.KLING in self._owned or self._is_leaving or not self._session.is_open:
            self._abandoned = None
            return
        async with self._lock:
            lease = await self._store.abandoned(Duty.KLING)
            if lease is not None and not self._has_seen(lease):
                lease = None
            if lease is not None and lease.epoch == self._abandoned:
                await self._take(lease)
            self._abandoned = None if lease is None else lease.epoch

    def _has_seen(self, lease: Lease) -> bool:
        """Return whether the session of this node is older than the last renewal of a lease.

        If not, a restart of the server may have ended both sessions, and the holder may live.
        """
        renewed_ago = self._timing.lifetime - lease.remaining
        return self._session.age > renewed_ago.total_seconds()

    async def _reconcile(self, view: NodesView, began: float) -> None:
        """Do the duties whose leases are this process's, and no other ones. The leases hold as of *began*."""
        instance = self._node.instance
        owned = {lease.duty: lease for lease in view.leases if lease.instance == instance and not lease.has_ended}
        for duty in self._owned - owned.keys():
            self._lose(duty, "Another node has taken it.")
        self._owned = {*owned}
        for duty, lease in owned.items():
            self._works[duty].tenure.begin(duty, instance, lease.epoch)
            await self._extend(duty, began)

    async def _extend(self, duty: Duty, began: float) -> None:
        """Extend a tenure and start the work of the duty, unless its work of an earlier tenure has not ended yet."""
        work = self._works[duty]
        work.tenure.extend(began + self._timing.tenure)
        if work.is_running or self._is_leaving or duty is self._yielding:
            return
        await self._before_start()
        work.start()

    def _lose(self, duty: Duty, reason: str) -> None:
        work = self._works[duty]
        if work.is_running and not work.is_aborted:
            log.warning("duty.lost", duty=duty, reason=reason)
        work.abort()

    async def _hand_over(self, duty: Duty) -> None:
        """Finish the work of a duty and give it back, so that a node with fewer duties takes it."""
        log.info("duty.handed_over", duty=duty, reason="Another node has fewer duties.")
        await self._works[duty].stop()
        async with self._lock:
            self._owned.discard(duty)
            self._works[duty].tenure.end()
            try:
                await self._store.give_back(self._node, [duty])
            except StoreUnavailable as exc:  # then the lease ends by itself, or the duty stays here
                log.warning("duty.not_handed_over", duty=duty, reason=exc.message)
            self._yielding = None

    async def _watch(self) -> None:
        """Cancel the work of each tenure that ends, and end if a part fails."""
        while True:
            for duty, work in self._works.items():
                if (failure := work.failure()) is not None and work.tenure.is_held:
                    raise failure
                if work.is_running and not work.is_aborted and not work.tenure.is_held:
                    self._lose(duty, "Its lease could not be renewed in time.")
            await asyncio.sleep(self._next_look())

    def _next_look(self) -> float:
        ends = [work.tenure.until for work in self._works.values() if work.is_running and work.tenure.is_held]
        interval = self._timing.interval.total_seconds()
        return max(min((end - self._monotonic() for end in ends), default=interval), _SHORTEST_PAUSE)

    async def _leave(self) -> None:
        with suppress(ReceiverError, TimeoutError):  # then the leases end by themselves
            async with asyncio.timeout(_LEAVE_LIMIT):
                await self._store.remove(self._node)

    def _report_cut_off(self, exc: Exception) -> None:
        if not self._is_cut_off:
            log.warning("leases.delayed", reason=str(exc) or "The database does not answer in time.")
        self._is_cut_off = True


def duties_of(view: NodesView, instance: str) -> Sequence[Duty]:
    """Return the duties that a process does."""
    return [lease.duty for lease in view.leases if lease.instance == instance and not lease.has_ended]
