"""Filters of lists, in any database."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from receiver.domain.clock import first_id
from receiver.domain.listed_state import ListedState
from receiver.domain.model import TaskState


def state_filter(states: Sequence[TaskState | ListedState]) -> Mapping[str, tuple[str, ...] | None]:
    """Return the arguments of a filter by listed states. A cancelled task is stored as a rejected one."""
    stored = {"rejected" if each == ListedState.CANCELLED else each.value for each in states}
    is_split = (ListedState.CANCELLED in states) != (ListedState.REJECTED in states)
    return {"states": tuple(sorted(stored)) or None, "listed_states": tuple(states) if is_split else None}


def time_bounds(prefix: str, since: datetime | None, until: datetime | None) -> Mapping[str, str | None]:
    """Return a span of time as a span of ids, which sort by time."""
    return {
        "since": None if since is None else first_id(prefix, since),
        "until": None if until is None else first_id(prefix, until),
    }


def set_cancelled_apart(counts: dict[Any, int]) -> None:
    """Take the cancelled tasks out of the other rejected ones. *counts* is by stored state, and of the cancelled ones.

    One statement counts both, so that no task is cancelled in between.
    """
    if cancelled := counts.pop(ListedState.CANCELLED, 0):
        counts[ListedState.CANCELLED] = cancelled
        counts[ListedState.REJECTED] -= cancelled
        if not counts[ListedState.REJECTED]:
            del counts[ListedState.REJECTED]
