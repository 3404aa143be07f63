"""The id of the request that is being handled: every log line of its task gets it."""

import itertools
import os
from contextvars import ContextVar

_number: ContextVar[int] = ContextVar("request_number", default=0)
_numbers = itertools.count(1)
_PROCESS = os.urandom(3).hex()  # so that the ids of two runs differ


def begin_request() -> int:
    """Set a new id for the running task, and return its number. At the task's end nothing needs to be reset."""
    number = next(_numbers)
    _number.set(number)
    return number


def continue_request(number: int) -> None:
    """Set the id of a request that began earlier, in a task that handles several."""
    _number.set(number)


def current_request() -> int:
    """Return the number of the request that the running task handles, 0 if it handles none."""
    return _number.get()


def request_id() -> str | None:
    """Return the id of the request that the running task handles, or None if it handles none."""
    number = _number.get()
    return f"{_PROCESS}-{number:x}" if number else None
