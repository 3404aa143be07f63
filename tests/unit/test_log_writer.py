"""Rules of the log's writer, on real pipes."""

import fcntl
import os
import threading
import time
from collections.abc import Iterator

import pytest

from receiver.service.log_writer import MAX_WAITING_BYTES, LogWriter

LINE = b"x" * 999 + b"\n"


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe: its read end and its write end."""
    read_end, write_end = os.pipe()
    yield read_end, write_end
    os.close(write_end)


def test_lines_arrive_whole_and_in_order(pipe: tuple[int, int]) -> None:
    lines = [b"%d" % number * length + b"\n" for number, length in enumerate([1, 5000, 10, 4096, 4095, 3, 70_000])]
    writer, received = LogWriter(pipe[1], report_dropped=unexpected), Received(pipe[0])

    for line in lines:
        writer.write([line])

    assert writer.flush()
    assert received.wait_for_bytes(sum(map(len, lines))) == b"".join(lines)


def test_a_full_pipe_never_blocks_the_caller_and_dropped_lines_are_counted(pipe: tuple[int, int]) -> None:
    reports: list[int] = []
    reported = threading.Event()

    def report(lines: int) -> None:
        reports.append(lines)
        reported.set()

    writer = LogWriter(pipe[1], report_dropped=report)
    count = 4 * MAX_WAITING_BYTES // len(LINE)
    for _ in range(count):
        writer.write([LINE])  # would block here if it waited for the pipe

    received = Received(pipe[0])
    assert reported.wait(10)
    assert writer.flush()
    written = count - reports[0]
    assert received.wait_for_bytes(written * len(LINE)) == LINE * written
    assert len(reports) == 1
    assert 0 < written < count


def test_a_flush_gives_up_on_a_reader_that_does_not_read(pipe: tuple[int, int]) -> None:
    writer = LogWriter(pipe[1], report_dropped=unexpected)
    for _ in range(100):
        writer.write([LINE])
    started = time.monotonic()

    assert not writer.flush()

    assert time.monotonic() - started < 5
    Received(pipe[0])
    assert writer.flush()  # its thread is finished with the pipe


def test_a_flush_without_lines_reports_a_full_pipe(pipe: tuple[int, int]) -> None:
    writer = LogWriter(pipe[1], report_dropped=unexpected)
    os.write(pipe[1], b"x" * fcntl.fcntl(pipe[1], fcntl.F_GETPIPE_SZ))

    assert not writer.flush()
    os.close(pipe[0])


def test_a_non_blocking_pipe_loses_no_line(pipe: tuple[int, int]) -> None:
    os.set_blocking(pipe[1], False)
    writer = LogWriter(pipe[1], report_dropped=unexpected)
    for _ in range(500):
        writer.write([LINE])

    received = Received(pipe[0])

    assert received.wait_for_bytes(500 * len(LINE)) == LINE * 500


def test_a_closed_pipe_stops_neither_the_caller_nor_the_flush(pipe: tuple[int, int]) -> None:
    os.close(pipe[0])
    writer = LogWriter(pipe[1], report_dropped=unexpected)

    for _ in range(10):
        writer.write([LINE])
        assert writer.flush()


class Received:
    """Reads a pipe to its end, in a thread."""

    def __init__(self, read_end: int) -> None:
        self._data = b""
        self._changed = threading.Condition()
        threading.Thread(target=self._read, args=(read_end,), daemon=True).start()

    def _read(self, read_end: int) -> None:
        while data := os.read(read_end, 65536):
            with self._changed:
                self._data += data
                self._changed.notify_all()
        os.close(read_end)

    def wait_for_bytes(self, count: int) -> bytes:
        """Return what was read, once it has *count* bytes."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self._data) >= count, 10)
            return self._data


def unexpected(lines: int) -> None:
    raise AssertionError(lines)
