"""Searches that people type, in any database. Each reads a window of a list, so that it costs the same at any size."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from receiver.domain.clock import MICROSECOND, from_micros
from receiver.domain.model import DeliveryStatus
from receiver.store.cursors import decode_cursor, encode_cursor
from receiver.store.interfaces import BriefDelivery, DeliverySearch, EventSearch, Found, RecentAttempt, TaskSearch
from receiver.store.list_filters import state_filter, time_bounds
from receiver.store.rows import Row

T = TypeVar("T")
Driver = TypeVar("Driver", bound=Row)

WINDOW = 20_000
"""Rows that one search reads."""

TEXT_WINDOW = 4_000
"""Rows that one search reads if it looks into JSON."""

SAMPLE = 4_000
"""Deliveries whose attempts are read for a chart."""

_LOWER = str.maketrans("ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefghijklmnopqrstuvwxyz")  # as LOWER in the databases


def task_arguments(search: TaskSearch, cursor: str | None) -> Mapping[str, object]:
    """Return the arguments of a search for tasks. Lists are tuples, tags are a dictionary."""
    return {
        "text": search.text.translate(_LOWER) or None,
        **state_filter(search.states),
        "endpoint": search.endpoint,
        "label": search.label,
        "batch": search.batch,
        "tags": dict(search.tags) or None,
        **time_bounds("tsk", search.since, search.until),
        "cursor": decode_cursor(cursor, prefix="tsk"),
    }


def task_window(search: TaskSearch) -> int:
    """Return how many tasks a search reads."""
    return TEXT_WINDOW if search.text or search.tags else WINDOW  # both read JSON


def event_arguments(search: EventSearch, cursor: str | None) -> Mapping[str, object]:
    """Return the arguments of a search for events."""
    return {
        "types": tuple(search.types) or None,
        "task_id": search.task_id,
        **time_bounds("evt", search.since, search.until),
        "cursor": decode_cursor(cursor, prefix="evt"),
    }


def delivery_arguments(search: DeliverySearch, cursor: str | None) -> Mapping[str, object]:
    """Return the arguments of a search for deliveries."""
    is_dead = search.status is DeliveryStatus.DEAD
    return {
        "only_dead": is_dead or None,  # its own index finds them without a window
        "status": None if is_dead else search.status,
        "route": search.route,
        "attempted": search.attempted or None,
        "cursor": decode_cursor(cursor, prefix="dlv"),
    }


def delivery_window(search: DeliverySearch) -> int | None:
    """Return how many deliveries a search reads; None if its index finds them all."""
    return None if search.status is DeliveryStatus.DEAD and search.route is None else WINDOW


def window_arguments(arguments: Mapping[str, object], window: int) -> Mapping[str, object]:
    """Return the arguments of the query for the lower end of a window."""
    starts = (arguments.get("cursor"), arguments.get("until"))
    return {"cursor": min((each for each in starts if isinstance(each, str)), default=None), "size": window - 1}


def window_end(ends: Sequence[Row]) -> str | None:
    """Return the lower end of a window. Without a row after it, the window is the rest of the list: None."""
    return str(ends[0]["id"]) if len(ends) > 1 else None


def read_window(
    found: Sequence[Driver], *, low: str | None, since: object, limit: int, read: Callable[[Driver], T]
) -> Found[T]:
    """Return what a search found in its window. One extra row shows whether there is another page."""
    items = [read(row) for row in found[:limit]]
    if len(found) > limit:
        return Found(items=items, next=encode_cursor(found[limit - 1]["id"]))
    if low is None or (isinstance(since, str) and since >= low):
        return Found(items=items)
    return Found(items=items, next=encode_cursor(low), is_partial=True)


def read_brief_deliveries(found: Sequence[Row]) -> Sequence[BriefDelivery]:
    """Read the deliveries of events. A delivery that was replayed is left out."""
    replayed = {row["replay_of"] for row in found}
    return [
        BriefDelivery(id=row["id"], event_id=row["event_id"], route=row["route"], status=DeliveryStatus(row["status"]))
        for row in found
        if row["id"] not in replayed
    ]


def read_recent_attempts(found: Iterable[Row]) -> Sequence[RecentAttempt]:
    """Read attempts as a chart shows them."""
    return [
        RecentAttempt(
            route=row["route"],
            started_at=from_micros(row["started_at"]),
            duration=row["duration"] * MICROSECOND,
            outcome=row["outcome"],
        )
        for row in found
    ]
