"""The id of the request that is being handled: every log line of its task gets it."""

import itertools
import os
from contextvars import ContextVar

_number: ContextVar[int] = ContextVar("request_number", default=0)
_numbers = itertools.count(1)
_PROCESS = os.urandom(3).hex()  # so that the ids of two runs differ


def begin_request() -> None:
    """Set a new id for the running task. Each request runs in its own task, so nothing needs to be reset."""
    _number.set(next(_numbers))


def request_id() -> str | None:
    """Return the id of the request that the running task handles, or None if it handles none."""
    number = _number.get()
    return f"{_PROCESS}-{number:x}" if number else None
