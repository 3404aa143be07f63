"""Checks every event of a store against the schema of its type in ``/openapi.json``."""

import json
from functools import cache
from typing import Any

from harness.json_schema import DocumentSchemas

from receiver.events.payload import serialize
from receiver.store.sqlite.store import SqliteStore
from receiver.web.openapi.document import openapi_document


@cache
def _schemas() -> DocumentSchemas:
    return DocumentSchemas(openapi_document().to_json())


def event_errors(event: Any) -> list[str]:
    """Return where an event differs from its schema."""
    return _schemas().errors(event, {"$ref": "#/components/schemas/Event"}, event["type"])


async def check_stored_events(store: SqliteStore, *, only: str = "") -> None:
    """Assert that all stored events match their schemas, or those whose type begins with *only*."""
    cursor = None
    while True:
        page = await store.catalog.events(limit=200, cursor=cursor)
        for event in page.items:
            if not event.type.startswith(only):
                continue
            assert event_errors(json.loads(serialize(event))) == []
        if (cursor := page.next) is None:
            return
