"""The ``webhooks`` section: the requests that destinations receive. Schemas refer to the definitions of events."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

from receiver.domain.api_schema import events
from receiver.domain.api_schema.reports import ReportEvent
from receiver.domain.model import Json

SchemaOf = Callable[[type[Any]], Json]

EVENT_TYPES: Mapping[str, tuple[str, type[Any]]] = {
    "taskEvent": ("A task has a new state", events.TaskEvent),
    "batchFinished": ("All tasks of a batch are finished", events.BatchEvent),
    "dailyReport": ("The daily report", ReportEvent),
    "alert": ("Something needs an operator, or no longer does", events.AlertEvent),
}
"""The summary and the body of each request to the webhook of a route, by its name."""

_IDS = {
    "webhook-id": "ID of the event: the same in every attempt and replay.",
    "webhook-timestamp": "Time of this attempt, in seconds since 1970.",
}
_SIGNATURE = "Signatures of Standard Webhooks, separated by spaces. Missing if no secret is configured."
_DELIVERY = {
    "kling-receiver-delivery": "ID of the delivery.",
    "kling-receiver-attempt": "Number of this attempt, from 1.",
}
_RESPONSES: Json = {
    "2XX": {"description": "The event is delivered. The first 4 KiB of the answer are kept."},
    "410": {"description": "The delivery is dead at once. A route is held."},
    "429": {"description": "The delivery is retried after the `Retry-After` of the answer, at most an hour."},
    "503": {"description": "As 429."},
    "default": {"description": "The delivery is retried. Redirects are not followed."},
}
_REPLY: Json = {
    "type": "object",
    "additionalProperties": True,
    "description": "Kling's own JSON, byte for byte as Kling sent it.",
}


def webhooks(schema_of: SchemaOf) -> Json:
    """Return the section. *schema_of* returns the schema of a type."""
    described = {
        name: _webhook(name, summary, schema_of(type_), tag="routes", always=(*_IDS, *_DELIVERY))
        for name, (summary, type_) in EVENT_TYPES.items()
    }
    reply = "The `callback_url` of a gateway's client gets Kling's body of each status, or of the end alone"
    return {**described, "reply": _webhook("reply", reply, _REPLY, tag="gateway", always=_DELIVERY)}


def _webhook(name: str, summary: str, schema: Json, *, tag: str, always: Collection[str]) -> Json:
    texts = {**_IDS, "webhook-signature": _SIGNATURE, **_DELIVERY}
    headers = [_header(each, text, is_required=each in always) for each, text in texts.items()]
    return {
        "post": {
            "operationId": f"receive{name[0].upper()}{name[1:]}",
            "tags": [tag],
            "summary": summary,
            "security": [],
            "parameters": headers,
            "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
            "responses": _RESPONSES,
        }
    }


def _header(name: str, text: str, *, is_required: bool) -> Json:
    return {"name": name, "in": "header", "required": is_required, "description": text, "schema": {"type": "string"}}
