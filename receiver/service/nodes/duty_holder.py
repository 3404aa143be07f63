"""Holds leases on duties, and runs their work while it holds them.

A lease is renewed every second or so. If that fails for too long, the work is cancelled before the lease ends, so
that another node can take the duty without an overlap. Waits use the monotonic clock; the store uses the database's.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress

import structlog

from receiver.domain.duties import Duty
from receiver.domain.errors import NodeReplaced, ReceiverError, StoreUnavailable
from receiver.domain.worker import TaskSet
from receiver.service.nodes.duty_plan import DutyPlan, LeaseTiming
from receiver.service.nodes.duty_work import DutyWork
from receiver.store.interfaces.nodes import NodeIdentity, NodeStore, NodesView

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

    async def run(self, stop: asyncio.Event) -> None:
        """Do duties until *stop*; then finish what is in flight and give the duties back. Raises if a part fails."""
        beating = asyncio.create_task(self._beat_until_cancelled(), name="leases")
        watching = asyncio.create_task(self._watch(), name="tenures")
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait([beating, watching, stopping], return_when=asyncio.FIRST_COMPLETED)
            for task in (beating, watching):
                if task.done():
                    await task
            self._is_leaving = True
            await asyncio.gather(*(work.stop() for work in self._works.values()))
        finally:
            for work in self._works.values():
                work.abort()
            beating.cancel()
            watching.cancel()
            stopping.cancel()
            self._hand_overs.cancel()
            await asyncio.gather(beating, watching, return_exceptions=True)
            await asyncio.gather(*(work.ended() for work in self._works.values()))
            await self._leave()

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
            await asyncio.sleep(max(left, _SHORTEST_PAUSE))

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
        view = await self._store.renew(self._node, frozenset(self._owned), lifetime=self._timing.lifetime)
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
            began = self._monotonic()
            if await self._store.take(self._node, lease.duty, epoch=lease.epoch, lifetime=self._timing.lifetime):
                log.info("duty.taken", duty=lease.duty, epoch=lease.epoch + 1, from_node=lease.node)
                self._owned.add(lease.duty)
                await self._extend(lease.duty, began)

    async def _reconcile(self, view: NodesView, began: float) -> None:
        """Do the duties whose leases are this process's, and no other ones. The leases hold as of *began*."""
        owned = {lease.duty for lease in view.leases if lease.instance == self._node.instance and not lease.has_ended}
        for duty in self._owned - owned:
            self._lose(duty, "Another node has taken it.")
        self._owned = owned
        for duty in owned:
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
