"""The port to distributed tracing. Without tracing it is one object that does nothing.

``service/open_telemetry`` implements it. The few places that call it name a task, whose trace the span continues.
"""

from contextlib import AbstractAsyncContextManager, nullcontext
from contextvars import ContextVar
from typing import Protocol

current_traceparent: ContextVar[str] = ContextVar("current_traceparent", default="")
"""The W3C ``traceparent`` of the span that the running code belongs to; empty without tracing."""

_NOTHING = nullcontext()


def trace_headers() -> dict[str, str]:
    """Return the headers that continue the current trace at the server that is called."""
    traceparent = current_traceparent.get()
    return {"traceparent": traceparent} if traceparent else {}


class Tracer(Protocol):
    """Records spans."""

    def span(self, name: str, task_id: str | None, **attributes: str | int) -> AbstractAsyncContextManager[None]:
        """Record a span in the trace of a task, or in the current trace if there is no task."""
        ...


class NoTracer:
    """Records nothing."""

    def span(self, name: str, task_id: str | None, **attributes: str | int) -> AbstractAsyncContextManager[None]:  # noqa: ARG002 -- the port's signature
        """Return a context that does nothing."""
        return _NOTHING


NO_TRACER = NoTracer()
