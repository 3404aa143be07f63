"""Lines of the log that are written together: a group of callbacks has many, and each write is a system call."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

WriteLines = Callable[[Sequence[Any]], None]

_batches: ContextVar[dict[WriteLines, list[Any]] | None] = ContextVar("log_batches", default=None)


@contextmanager
def log_together() -> Iterator[None]:
    """Keep the lines that the running task logs in this block, and write them at its end. The block must not await."""
    batches: dict[WriteLines, list[Any]] = {}
    token = _batches.set(batches)
    try:
        yield
    finally:
        _batches.reset(token)
        for write, lines in batches.items():
            write(lines)


def write_line(line: object, write: WriteLines) -> None:
    """Write a line, in any form that *write* takes, or keep it if lines are kept at the moment."""
    batches = _batches.get()
    if batches is None:
        write((line,))
    else:
        batches.setdefault(write, []).append(line)
