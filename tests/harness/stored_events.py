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
    """Return where an event is not as its schema says."""
    return _schemas().errors(event, {"$ref": "#/components/schemas/Event"}, event["type"])


async def check_stored_events(store: SqliteStore) -> None:
    """Assert that all stored events match their schemas."""
    cursor = None
    while True:
        page = await store.catalog.events(limit=200, cursor=cursor)
        for event in page.items:
            assert event_errors(json.loads(serialize(event))) == []
        if (cursor := page.next) is None:
            return
