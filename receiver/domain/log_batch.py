"""Lines of the log that are written together: a group of callbacks has many, and each write is a system call."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

WriteLines = Callable[[Sequence[Any]], None]


class _Block:
    """A block's lines, by the function that writes them. Tasks that begin in a block know it after its end too."""

    def __init__(self) -> None:
        self.lines: dict[WriteLines, list[Any]] = {}
        self.has_ended = False


_block: ContextVar[_Block | None] = ContextVar("log_block", default=None)


@contextmanager
def log_together() -> Iterator[None]:
    """Keep the lines that the running task logs in this block, and write them at its end. The block must not await."""
    block = _Block()
    token = _block.set(block)
    try:
        yield
    finally:
        _block.reset(token)
        block.has_ended = True
        for write, lines in block.lines.items():
            write(lines)


def write_line(line: object, write: WriteLines) -> None:
    """Write a line, in any form that *write* takes, or keep it if lines are kept at the moment."""
    block = _block.get()
    if block is None or block.has_ended:
        write((line,))
    else:
        block.lines.setdefault(write, []).append(line)
