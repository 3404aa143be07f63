"""Writes log lines without waiting for their reader, which may stop reading: a full pipe, a paused terminal.

A write to such a reader blocks, and would block every callback with it. Setting the descriptor to non-blocking is not
an option: it is shared with the process that started the service. So a line is written at once while the reader
takes it, and else by a thread, which may wait.
"""

import os
import select
import threading
from collections.abc import Callable, Iterator, Sequence

MAX_WAITING_BYTES = 1024 * 1024
"""Lines beyond this size are dropped and counted. That is about 4,000 lines."""

_CHUNK = select.PIPE_BUF  # a pipe writes this much at once, so lines of several processes do not mix
_TIMEOUT = 1.0  # seconds


class LogWriter:
    """Writes lines to a file descriptor. Never waits, never fails: lines that cannot be written are counted.

    ``report_dropped`` is called from the thread with the number of lost lines, once writing works again.
    """

    def __init__(self, descriptor: int, *, report_dropped: Callable[[int], None]) -> None:
        self._descriptor = descriptor
        self._report_dropped = report_dropped
        self._changed = threading.Condition()
        self._lines: list[bytes] = []
        self._size = 0
        self._dropped = 0
        self._is_writing = False
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()

    def write(self, lines: Sequence[bytes]) -> None:
        """Write lines, which each end in a line break, queue them, or drop those for which too many lines wait."""
        with self._changed:
            for chunk in _chunks(lines):
                written = self._write_at_once(b"".join(chunk))
                for line in chunk:
                    if written < len(line):
                        self._queue(line[written:])
                    written = max(0, written - len(line))

    def _queue(self, line: bytes) -> None:
        if self._size + len(line) > MAX_WAITING_BYTES:
            self._dropped += 1
            return
        self._lines.append(line)
        self._size += len(line)
        if not self._is_writing:
            self._changed.notify_all()

    def _write_at_once(self, line: bytes) -> int:
        """Write a line if that takes no waiting, and return how many bytes of it were written.

        A pipe that is ready takes up to _CHUNK bytes.
        """
        if self._lines or self._is_writing or self._dropped or len(line) > _CHUNK:
            return 0
        if self._poll.poll(0) != [(self._descriptor, select.POLLOUT)]:
            return 0
        try:
            return os.write(self._descriptor, line)
        except OSError:
            return 0

    def flush(self) -> bool:
        """Wait until all lines are written, at most a second. Return whether the reader still reads."""
        with self._changed:
            is_done = self._changed.wait_for(lambda: not self._lines and not self._is_writing, _TIMEOUT)
        return is_done and self._wait_writable()

    def _run(self) -> None:
        while True:
            lines = self._take()
            written = self._write_all(lines)
            with self._changed:
                lost = self._dropped + len(lines) - written
                self._dropped = 0 if written else lost
            if lost and written:
                self._report_dropped(lost)

    def _take(self) -> Sequence[bytes]:
        """Return the waiting lines; wait for the first."""
        with self._changed:
            self._is_writing = False
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._lines)
            lines, self._lines, self._size, self._is_writing = self._lines, [], 0, True
            return lines

    def _write_all(self, lines: Sequence[bytes]) -> int:
        """Write lines, and return how many were written."""
        written = 0
        for chunk in _chunks(lines):
            try:
                self._write_chunk(b"".join(chunk))
            except OSError:  # a full disk, a closed pipe
                continue
            written += len(chunk)
        return written

    def _write_chunk(self, chunk: bytes) -> None:
        rest = memoryview(chunk)
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except BlockingIOError:  # another process made the shared descriptor non-blocking
                self._wait_writable()

    def _wait_writable(self) -> bool:
        poll = select.poll()
        poll.register(self._descriptor, select.POLLOUT)
        return bool(poll.poll(_TIMEOUT * 1000))


def _chunks(lines: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    """Yield the lines in chunks that a pipe takes at once; a longer line is alone."""
    chunk: list[bytes] = []
    size = 0
    for line in lines:
        if chunk and size + len(line) > _CHUNK:
            yield chunk
            chunk, size = [], 0
        chunk.append(line)
        size += len(line)
    if chunk:
        yield chunk
