"""Tracing with OpenTelemetry, an extra. Only this module knows the library.

Spans leave in batches, from a thread of their own: a collector that is slow or down costs a span, never a callback.
Spans have ids, names of routes and outcomes, and no text of others: that might quote a secret.
"""

import asyncio
import logging
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from contextvars import ContextVar
from dataclasses import replace
from datetime import timedelta
from typing import Any, cast

import structlog
from starlette.types import ASGIApp, Receive, Scope, Send

from receiver import __version__
from receiver.delivery.lane import Lane, LaneLookup
from receiver.delivery.senders.sender import DeliveryRequest, Sender
from receiver.domain.bounded_dict import BoundedDict
from receiver.domain.daemon_thread import run_in_daemon_thread
from receiver.domain.errors import StoreUnavailable
from receiver.domain.model import Accepted, Event, Outcome, StatusReport, Task
from receiver.domain.request_id import continue_request
from receiver.domain.tracing import current_traceparent
from receiver.kling.client import KlingResponse
from receiver.service.extras import how_to_install, is_installed
from receiver.service.tracing import NO_TRACING, Tracing, is_requested
from receiver.store.interfaces import ApplyCall, Change, Decide, TaskRef, TaskStore, TraceStore
from receiver.tracking.parsed_push import Callback
from receiver.tracking.poller import AnswerSink, PollApi
from receiver.web.callbacks import Inbox

log = structlog.get_logger()

_MAX_KNOWN_TRACES = 10_000
_FLUSH_SECONDS = 3
_MAX_COMPLAINT_SECONDS = 60
_SUBMIT_PATH = re.compile(r"/api/tasks(/.+/retry)?|/kling/.+")
_SERVICE_NAME = "kling-receiver"

_span: ContextVar[Any] = ContextVar("current_span", default=None)
_query_began: ContextVar[int | None] = ContextVar("query_began", default=None)  # in ns since the epoch


@asynccontextmanager
async def open_tracing(traces: TraceStore, environ: Mapping[str, str]) -> AsyncIterator[Tracing]:
    """Open tracing as the standard ``OTEL_*`` variables say. At the end, export what is left, for at most 3 s."""
    if not is_requested(environ):
        yield NO_TRACING
        return
    provider = _open_provider(environ)
    if provider is None:
        yield NO_TRACING
        return
    log.info("tracing.on")
    try:
        yield OpenTelemetryTracing(provider, traces)
    finally:
        with suppress(TimeoutError):
            async with asyncio.timeout(_FLUSH_SECONDS):
                await run_in_daemon_thread(provider.shutdown, name="trace-exporter")


def _open_provider(environ: Mapping[str, str]) -> Any:  # noqa: ANN401 -- the library's own
    """Return what makes and exports spans, or None after logging why there is none."""
    if not is_installed("otel"):
        log.warning("tracing.off", reason="The extra `otel` is not installed.", remedy=how_to_install("otel"))
        return None
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 -- an extra
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415 -- as above
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415 -- as above
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415 -- as above

    named = {} if environ.get("OTEL_SERVICE_NAME") else {"service.name": _SERVICE_NAME}
    library = logging.getLogger("opentelemetry")
    library.handlers, library.propagate = [_OncePerMinute()], False  # each failed batch is a line otherwise
    try:
        resource = Resource.create({**named, "service.version": __version__})
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    except (ValueError, TypeError, OSError) as exc:  # a variable that the library cannot read
        log.warning("tracing.off", reason=f"A variable OTEL_* is not valid: {exc}")
        return None
    return provider


class _OncePerMinute(logging.Handler):
    """Passes one line a minute on to the handlers of the whole process."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._next_at = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        """Log a line, unless one was logged less than a minute ago."""
        now = time.monotonic()
        if now >= self._next_at:
            self._next_at = now + _MAX_COMPLAINT_SECONDS
            logging.getLogger().handle(record)


class OpenTelemetryTracing:
    """Adds spans to the parts of the service, and is the tracer of those that record one themselves."""

    def __init__(self, provider: Any, traces: TraceStore) -> None:  # noqa: ANN401 -- the library's own
        self._tracer = provider.get_tracer("receiver", __version__)
        self._traces = traces
        self._known: BoundedDict[str, str] = BoundedDict(_MAX_KNOWN_TRACES)

    @property
    def tracer(self) -> "OpenTelemetryTracing":
        """The object itself."""
        return self

    def span(self, name: str, task_id: str | None, **attributes: str | int) -> AbstractAsyncContextManager[None]:
        """Record a span in the trace of a task."""
        return self.task_span(name, task_id, attributes)

    @asynccontextmanager
    async def task_span(
        self, name: str, task_id: str | None, attributes: Mapping[str, str | int], *, began: int | None = None
    ) -> AsyncGenerator[Any, None]:
        """Record a span in the trace of a task, or else in the current trace, from *began* (ns) or now on."""
        parent = None if task_id is None else await self.trace_of(task_id)
        known = attributes if task_id is None else {"task": task_id, **attributes}
        with self.recording(name, known, parent=parent, began=began) as span:
            yield span

    def recording(
        self,
        name: str,
        attributes: Mapping[str, str | int],
        *,
        parent: str | None = None,
        began: int | None = None,
        is_root: bool = False,
    ) -> "_Recording":
        """Return a context that records a span below *parent*, or below the current span unless it *is_root*."""
        return _Recording(self._tracer, name, attributes, parent=parent, began=began, is_root=is_root)

    async def trace_of(self, task_id: str) -> str | None:
        """Return the stored trace of a task. A store that cannot answer costs the span its trace, and nothing else."""
        if task_id not in self._known:
            try:
                self._known[task_id] = await self._traces.find(task_id) or ""
            except StoreUnavailable:
                return None
        return self._known[task_id] or None

    async def remember(self, task_id: str, traceparent: str) -> None:
        """Store the trace of a new task."""
        self._known[task_id] = traceparent
        with suppress(StoreUnavailable):  # the task is stored, and that is what counts
            await self._traces.save(task_id, traceparent)

    def submits(self, app: ASGIApp) -> ASGIApp:
        """Wrap the admin app."""

        async def traced(scope: Scope, receive: Receive, send: Send) -> None:
            is_post = scope["type"] == "http" and scope["method"] == "POST"
            if not is_post or not _SUBMIT_PATH.fullmatch(scope["path"]):
                await app(scope, receive, send)
                return
            parent = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"traceparent"), "")
            with self.recording("submit", {"path": scope["path"][:256]}, parent=parent, is_root=True):
                await app(scope, receive, send)

        return traced

    def submit_store(self, store: TaskStore) -> TaskStore:
        """Wrap the task store of the submitter."""
        return cast("TaskStore", _TracedSubmitStore(store, self))

    def inbox_store(self, store: TaskStore) -> TaskStore:
        """Wrap the task store of the inbox."""
        return cast("TaskStore", _TracedInboxStore(store, self))

    def callbacks(self, inbox: Inbox) -> Inbox:
        """Wrap the inbox of the public app."""
        return _TracedInbox(inbox, self)

    def polls(self, kling: PollApi) -> PollApi:
        """Wrap Kling's API of the poller."""
        return _TracedPolls(kling)

    def answers(self, sink: AnswerSink) -> AnswerSink:
        """Wrap the inbox of the poller."""
        return cast("AnswerSink", _TracedAnswers(sink, self))

    def lanes(self, lanes: LaneLookup) -> LaneLookup:
        """Wrap the lanes of the dispatcher."""
        known: dict[str, tuple[Lane, Lane]] = {}

        def look_up(route: str) -> Lane | None:
            lane = lanes(route)
            if lane is None:
                return None
            if route not in known or known[route][0] is not lane:
                known[route] = (lane, replace(lane, sender=_TracedSender(lane.sender, self, route)))
            return known[route][1]

        return look_up


class _Recording:
    """Records one span, and makes it the current one of the running asyncio task meanwhile."""

    def __init__(
        self,
        tracer: Any,  # noqa: ANN401 -- the library's own
        name: str,
        attributes: Mapping[str, str | int],
        *,
        parent: str | None,
        began: int | None,
        is_root: bool,
    ) -> None:
        from opentelemetry import trace  # noqa: PLC0415 -- an extra
        from opentelemetry.context import Context  # noqa: PLC0415 -- as above

        self._trace = trace
        context, above = _context(parent) or Context(), _span.get()
        if parent is None and above is not None and not is_root:
            context = trace.set_span_in_context(above, Context())
        self._opened = tracer.start_span(name, context=context, attributes=dict(attributes), start_time=began)

    def __enter__(self) -> Any:  # noqa: ANN401 -- the library's own
        self._tokens = (_span.set(self._opened), current_traceparent.set(traceparent_of(self._opened)))
        return self._opened

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._opened.set_status(self._trace.StatusCode.ERROR, kind.__name__)
        _span.reset(self._tokens[0])
        current_traceparent.reset(self._tokens[1])
        self._opened.end()


def _context(traceparent: str | None) -> Any:  # noqa: ANN401 -- the library's own
    """Return the context of a ``traceparent``, or None if it is not one."""
    if not traceparent:
        return None
    from opentelemetry.context import Context  # noqa: PLC0415 -- an extra
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415 -- as above

    return TraceContextTextMapPropagator().extract({"traceparent": traceparent}, Context())


def traceparent_of(span: Any) -> str:  # noqa: ANN401 -- the library's own
    """Return the W3C ``traceparent`` of a span."""
    context = span.get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


class _TracedSubmitStore:
    """A task store that records the commit of each new task, and stores the task's trace."""

    def __init__(self, store: TaskStore, tracing: OpenTelemetryTracing) -> None:
        self._store = store
        self._tracing = tracing

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 -- everything else is the store's own
        return getattr(self._store, name)

    async def add(self, task: Task, intent: bytes, **options: Any) -> Task:  # noqa: ANN401 -- the store's own options
        with self._tracing.recording("commit", {"task": task.id}) as span:
            stored = await self._store.add(task, intent, **options)
        if stored.id == task.id:  # below the submit, or below this span if nothing is above it
            await self._tracing.remember(task.id, current_traceparent.get() or traceparent_of(span))
        return stored


class _TracedInboxStore:
    """A task store that records the commit of each push, and links a callback to the trace of its task."""

    def __init__(self, store: TaskStore, tracing: OpenTelemetryTracing) -> None:
        self._store = store
        self._tracing = tracing

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 -- everything else is the store's own
        return getattr(self._store, name)

    async def apply(self, ref: TaskRef, decide: Decide, **options: Any) -> Change | None:  # noqa: ANN401 -- as above
        above = _span.get()
        if above is None:
            return await self._store.apply(ref, decide, **options)
        with self._tracing.recording("commit", {}):
            change = await self._store.apply(ref, decide, **options)
        if change is not None and change.push is not None:
            await self._link(above, change.push.task_id)
        return change

    async def apply_all(self, calls: Sequence[ApplyCall]) -> Sequence[Change | BaseException | None]:
        applied = (self.apply(call.ref, call.decide, with_pending=call.with_pending) for call in calls)
        return await asyncio.gather(*applied, return_exceptions=True)

    async def _link(self, span: Any, task_id: str) -> None:  # noqa: ANN401 -- the library's own
        """Link a callback's span to the trace of its task, unless it is in that trace."""
        span.set_attribute("task", task_id)
        context = _context(await self._tracing.trace_of(task_id))
        if context is None:
            return
        from opentelemetry import trace  # noqa: PLC0415 -- an extra

        linked = trace.get_current_span(context).get_span_context()
        if linked.trace_id != span.get_span_context().trace_id:
            span.add_link(linked)


class _TracedInbox:
    """An inbox whose callbacks each are a trace."""

    def __init__(self, inbox: Inbox, tracing: OpenTelemetryTracing) -> None:
        self._inbox = inbox
        self._tracing = tracing

    async def accept_callback(self, token: str, headers: Sequence[tuple[str, str]], body: bytes) -> bool:
        with self._tracing.recording("callback", {"size": len(body)}, is_root=True):
            return await self._inbox.accept_callback(token, headers, body)

    async def accept_callbacks(self, callbacks: Sequence[Callback]) -> Sequence[bool | BaseException]:
        return await asyncio.gather(*map(self._accept, callbacks), return_exceptions=True)

    async def _accept(self, callback: Callback) -> bool:
        continue_request(callback.request)  # this task began with the newest request of the group
        return await self.accept_callback(callback.token, callback.headers, callback.body)

    async def has_token(self, token: str) -> bool:
        return await self._inbox.has_token(token)


class _TracedPolls:
    """Kling's API of the poller. It keeps when a query began, because its task is known to the poller alone."""

    def __init__(self, kling: PollApi) -> None:
        self._kling = kling

    async def query(self, endpoint: str, task_id: str) -> KlingResponse:
        _query_began.set(time.time_ns())
        return await self._kling.query(endpoint, task_id)

    async def query_batch(self, endpoint: str, task_ids: Sequence[str]) -> Mapping[str, KlingResponse]:
        _query_began.set(time.time_ns())
        return await self._kling.query_batch(endpoint, task_ids)


class _TracedAnswers:
    """The inbox of the poller: an answer ends the span that its query began."""

    def __init__(self, sink: AnswerSink, tracing: OpenTelemetryTracing) -> None:
        self._sink = sink
        self._tracing = tracing

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 -- everything else is the inbox's own
        return getattr(self._sink, name)

    async def apply_answer(self, task_id: str, report: StatusReport, answer: bytes) -> None:
        status = {"status": report.raw_status[:64]}
        async with self._tracing.task_span("confirm", task_id, status, began=_query_began.get()):
            await self._sink.apply_answer(task_id, report, answer)


class _TracedSender:
    """A sender whose attempts are spans in the trace of the event's task."""

    def __init__(self, sender: Sender, tracing: OpenTelemetryTracing, route: str) -> None:
        self._sender = sender
        self._tracing = tracing
        self._route = route

    @property
    def timeout(self) -> timedelta:
        return self._sender.timeout

    async def preview(self, event: Event) -> bytes:
        return await self._sender.preview(event)

    async def send(self, request: DeliveryRequest) -> Outcome:
        attributes: dict[str, str | int] = {"route": self._route, "attempt": request.attempt}
        attributes |= {"delivery": request.delivery_id, "event": request.event.id, "type": request.event.type}
        async with self._tracing.task_span("delivery.attempt", request.event.task_id, attributes) as span:
            outcome = await self._sender.send(request)
            if outcome.code is not None:
                span.set_attribute("code", outcome.code)
            if not isinstance(outcome, Accepted):
                from opentelemetry.trace import StatusCode  # noqa: PLC0415 -- an extra

                span.set_status(StatusCode.ERROR, type(outcome).__name__.lower())
            return outcome

    async def aclose(self) -> None:
        await self._sender.aclose()
