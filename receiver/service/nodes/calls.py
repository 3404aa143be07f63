"""Asks the node that holds a duty for what it alone may decide, and answers such calls of other nodes.

A call is served once at most. If the node that serves it dies, its caller gets the error that the outcome is unknown.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta

import msgspec
import structlog

from receiver.domain.clock import Clock, Ids
from receiver.domain.duties import Duty
from receiver.domain.errors import CallLost, ReceiverError, StoreUnavailable
from receiver.domain.notifier import Notifier
from receiver.domain.worker import TaskSet
from receiver.service.nodes.call_codec import decode_answer, encode_answer, encode_error
from receiver.store.interfaces.node_calls import CallStore, NodeCall

log = structlog.get_logger()

MAX_SILENCE = timedelta(seconds=6)
"""How long after its last sign of life a caller counts as gone."""

TAKE_LIMIT = timedelta(seconds=20)
"""How long a call waits for a node that serves it: longer than a takeover."""

_STOP_LIMIT = timedelta(seconds=20)
_LOOK_EVERY = timedelta(seconds=0.5)
_REMOVE_AFTER = timedelta(minutes=10)
_MAX_TAKEN = 64

HasLeft = Callable[[], bool]


class RemoteCaller(msgspec.Struct, frozen=True, kw_only=True):
    """The caller of a call that is served: whether it has left, and whether this node stops serving it."""

    has_left: Callable[[], bool]
    is_stopping: Callable[[], bool]


Handler = Callable[[bytes, RemoteCaller], Awaitable[bytes]]
"""Serves a call: takes its arguments and its caller, and returns the answer."""


class NodeCalls:
    """Calls the holders of duties. *holder_of* returns the instance that holds a duty, or None."""

    def __init__(
        self,
        store: CallStore,
        *,
        holder_of: Callable[[Duty], str | None],
        notifier: Notifier,
        clock: Clock,
        ids: Ids,
    ) -> None:
        self._store = store
        self._holder_of = holder_of
        self._notifier = notifier
        self._clock = clock
        self._ids = ids

    async def call(self, duty: Duty, kind: str, arguments: bytes, *, has_left: HasLeft = lambda: False) -> bytes:
        """Return the answer of the node that holds *duty*. Raises the error that it answers.

        Raises StoreUnavailable if no node takes the call in time, and CallLost if its outcome is unknown.
        """
        call = NodeCall(id=self._ids.new("cal"), kind=kind, arguments=arguments)
        await self._store.add(duty, call)
        self._notifier.notify()
        wake = self._notifier.subscribe()
        try:
            return await self._await_answer(duty, call.id, wake, has_left)
        finally:
            self._notifier.unsubscribe(wake)

    async def _await_answer(self, duty: Duty, call_id: str, wake: asyncio.Event, has_left: HasLeft) -> bytes:
        give_up_at, was_taken = self._clock.monotonic() + TAKE_LIMIT.total_seconds(), False
        lost_since: float | None = None
        while True:
            wake.clear()
            try:
                state = await self._store.waiting(call_id)
            except StoreUnavailable:
                await self._clock.wait(asyncio.Event(), until=self._clock.now() + _LOOK_EVERY)
                continue
            is_late = not was_taken and self._clock.monotonic() >= give_up_at
            if state is not None and state.answer is None and (has_left() or is_late):
                state = await self._store.remove(call_id)
                if state is not None and state.taken_by is None:
                    raise StoreUnavailable(f"No node does the duty {duty.value!r} now.", remedy="Send it again.")
                raise CallLost("The call was given up while another node served it.")
            if state is None:
                raise CallLost("The database was restarted during the call.")
            if state.answer is not None:
                await self._store.remove(call_id)
                return decode_answer(state.answer)
            was_taken = state.taken_by is not None
            if state.taken_by is None or self._holder_of(duty) == state.taken_by:
                lost_since = None
            else:
                lost_since = await self._allow_last_answer(call_id, lost_since)
            await self._clock.wait(wake, until=self._clock.now() + _LOOK_EVERY)

    async def _allow_last_answer(self, call_id: str, lost_since: float | None) -> float:
        """Return since when the node that serves a call seems to have lost the duty. Raises CallLost after a while.

        It may answer yet. Or it is the new holder, and this node has not noticed that.
        """
        now = self._clock.monotonic()
        if lost_since is None or now - lost_since < MAX_SILENCE.total_seconds():
            return now if lost_since is None else lost_since
        await self._store.remove(call_id)
        raise CallLost("The node that served the call has lost its duty.")


class CallServer:
    """Serves the calls for one duty, as a part of its work."""

    def __init__(
        self,
        store: CallStore,
        duty: Duty,
        handlers: Mapping[str, Handler],
        *,
        instance: str,
        notifier: Notifier,
        clock: Clock,
    ) -> None:
        self._store = store
        self._duty = duty
        self._handlers = handlers
        self._instance = instance
        self._notifier = notifier
        self._clock = clock
        self._serving = TaskSet("call.failed")
        self._unwanted: set[str] = set()
        self._stop = asyncio.Event()
        self._ids: set[str] = set()

    async def run(self, stop: asyncio.Event) -> None:
        """Serve calls until *stop*, then finish those that were taken."""
        wake, self._stop = self._notifier.subscribe(), stop
        await self._store.remove_old(_REMOVE_AFTER)
        try:
            while not stop.is_set():
                wake.clear()
                try:
                    await self._look()
                except StoreUnavailable as exc:
                    log.warning("calls.delayed", reason=exc.message)
                await self._clock.wait(wake, until=self._clock.now() + _LOOK_EVERY)
        finally:
            self._notifier.unsubscribe(wake)
        await self._serving.drain(within=_STOP_LIMIT)

    async def _look(self) -> None:
        """Take new calls, and notice callers that have left."""
        for call in await self._store.take(self._duty, self._instance, max_silence=MAX_SILENCE, limit=_MAX_TAKEN):
            self._ids.add(call.id)
            self._serving.spawn(self._serve(call), call=call.id)
        if self._ids:
            wanted = await self._store.wanted(self._ids, max_silence=MAX_SILENCE)
            self._unwanted = self._ids - {*wanted}

    async def _serve(self, call: NodeCall) -> None:
        try:
            answer = await self._answer(call)
            await self._store.answer(call.id, self._instance, answer)
        finally:
            self._ids.discard(call.id)
            self._unwanted.discard(call.id)
            self._notifier.notify()

    async def _answer(self, call: NodeCall) -> bytes:
        handler = self._handlers.get(call.kind)
        if handler is None:
            return encode_error(CallLost(f"This node's version cannot serve {call.kind!r}."))
        caller = RemoteCaller(has_left=lambda: call.id in self._unwanted, is_stopping=self._stop.is_set)
        try:
            return encode_answer(await handler(call.arguments, caller))
        except ReceiverError as exc:
            return encode_error(exc)
        except Exception:  # the caller must get an answer
            log.exception("call.failed", call=call.id, kind=call.kind)
            return encode_error(CallLost("Internal error. See the log of the node that served the call."))
