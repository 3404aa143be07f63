"""The body of a webhook's request: the event, Kling's own body, or a projection of the event."""

import json
from collections.abc import Callable

from receiver.delivery.senders.sender import RenderingFailed
from receiver.domain.model import Event
from receiver.events import payload
from receiver.settings import WebhookSettings
from receiver.settings.projection import KLING, Projection

MakeBody = Callable[[Event], bytes]


def body_maker(settings: WebhookSettings) -> MakeBody:
    """Return the function that makes a request's body. A projection is compiled here, once."""
    if isinstance(settings.payload, Projection):
        return _projector(settings.payload)
    return _klings_body if settings.payload == KLING else payload.serialize


def _klings_body(event: Event) -> bytes:
    return event.body or payload.serialize(event)


def _projector(projection: Projection) -> MakeBody:
    import jmespath  # noqa: PLC0415 -- a slow import that only projections need

    compiled = jmespath.compile(projection.expression)

    def make(event: Event) -> bytes:
        try:
            value = compiled.search(json.loads(payload.serialize(event)))
        except Exception as exc:  # an expression may fail in many ways on an unexpected body
            raise RenderingFailed(f"payload = {projection} could not be evaluated: {exc}"[:500]) from exc
        if value is None:
            raise RenderingFailed(f"payload = {projection} gave null for this event"[:500])
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")

    return make
