"""Where spans begin: wrappers around the parts that the service is built from, so that these know nothing of tracing.

    a POST that submits      one trace: the span ``submit``, or a child of the client's own ``traceparent``
    store.tasks.add          ``commit``; the task's trace is stored, so that a later process continues it
    the create at Kling      ``kling.create``; Kling's call gets the ``traceparent``
    a callback               a trace of its own, ``callback``, linked to the trace of its task, with a ``commit``
    a poll's answer          ``confirm``, from the query on
    a result's download      ``download``
    an attempt               ``delivery.attempt``; webhooks get ``traceparent``, scripts ``TRACEPARENT``

Without tracing, each wrapper returns what it was given.
"""

from collections.abc import Mapping
from typing import Protocol, TypeVar
from urllib.parse import urlsplit

from starlette.types import ASGIApp

from receiver.delivery.lane import LaneLookup
from receiver.domain.tracing import NO_TRACER, Tracer
from receiver.store.interfaces import TaskStore
from receiver.tracking.poller import AnswerSink, PollApi
from receiver.web.callbacks import Inbox

Kling = TypeVar("Kling", bound=PollApi)


class Tracing(Protocol):
    """Adds spans to the parts of the service."""

    @property
    def tracer(self) -> Tracer:
        """The port for the few parts that record a span themselves."""
        ...

    def submits(self, app: ASGIApp) -> ASGIApp:
        """Wrap the admin app: a submit begins a trace."""
        ...

    def submit_store(self, store: TaskStore) -> TaskStore:
        """Wrap the task store of the submitter: the commit of a new task is a span, and its trace is stored."""
        ...

    def inbox_store(self, store: TaskStore) -> TaskStore:
        """Wrap the task store of the inbox: the commit of a push is a span, and a callback is linked to its task."""
        ...

    def callbacks(self, inbox: Inbox) -> Inbox:
        """Wrap the inbox of the public app: each callback is a trace."""
        ...

    def polls(self, kling: PollApi) -> PollApi:
        """Wrap Kling's API of the poller: a query is the start of a confirmation."""
        ...

    def answers(self, sink: AnswerSink) -> AnswerSink:
        """Wrap the inbox of the poller: an answer is the end of a confirmation."""
        ...

    def lanes(self, lanes: LaneLookup) -> LaneLookup:
        """Wrap the lanes of the dispatcher: each attempt is a span."""
        ...


class NoTracing:
    """Adds nothing."""

    tracer: Tracer = NO_TRACER

    def submits(self, app: ASGIApp) -> ASGIApp:
        """Return the app."""
        return app

    def submit_store(self, store: TaskStore) -> TaskStore:
        """Return the store."""
        return store

    def inbox_store(self, store: TaskStore) -> TaskStore:
        """Return the store."""
        return store

    def callbacks(self, inbox: Inbox) -> Inbox:
        """Return the inbox."""
        return inbox

    def polls(self, kling: PollApi) -> PollApi:
        """Return Kling's API."""
        return kling

    def answers(self, sink: AnswerSink) -> AnswerSink:
        """Return the inbox."""
        return sink

    def lanes(self, lanes: LaneLookup) -> LaneLookup:
        """Return the lanes."""
        return lanes


NO_TRACING = NoTracing()


_DEFAULT_COLLECTOR = "http://localhost:4318"


def collector(environ: Mapping[str, str]) -> str | None:
    """Return the scheme, host and port that traces are sent to; None if no variable asks for traces."""
    if not is_requested(environ):
        return None
    named = (environ.get(f"OTEL_EXPORTER_OTLP_{name}") for name in ("TRACES_ENDPOINT", "ENDPOINT"))
    url = urlsplit(next(filter(None, named), _DEFAULT_COLLECTOR))
    return f"{url.scheme}://{url.netloc.rpartition('@')[2]}"  # without its password


def is_requested(environ: Mapping[str, str]) -> bool:
    """Return whether the standard variables of OpenTelemetry ask for traces."""
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    exporter = environ.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    if exporter:
        return "otlp" in map(str.strip, exporter.split(","))
    return bool(environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") or environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"))
