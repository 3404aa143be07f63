"""Lines that are logged together are written together, in their order."""

import asyncio
import os
from collections.abc import Iterator, Sequence

import pytest

from receiver.domain.log_batch import log_together, write_line
from receiver.service.log_writer import LogWriter


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe: its read end and its write end."""
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def test_lines_are_written_together_at_the_end_of_the_block() -> None:
    written: list[Sequence[bytes]] = []

    with log_together():
        write_line(b"one\n", written.append)
        write_line(b"two\n", written.append)
        assert written == []

    write_line(b"three\n", written.append)
    assert [list(lines) for lines in written] == [[b"one\n", b"two\n"], [b"three\n"]]


def test_an_error_in_the_block_loses_no_line() -> None:
    written: list[Sequence[bytes]] = []

    with pytest.raises(ValueError, match="broken"):
        log_and_fail(written)

    assert written == [[b"one\n"]]


async def test_a_task_that_begins_in_a_block_writes_its_lines_at_once() -> None:
    written: list[Sequence[bytes]] = []

    async def log_later() -> None:
        write_line(b"later\n", written.append)

    with log_together():
        task = asyncio.create_task(log_later())
    await task

    assert written == [(b"later\n",)]


def log_and_fail(written: list[Sequence[bytes]]) -> None:
    with log_together():
        write_line(b"one\n", written.append)
        raise ValueError("broken")


def test_a_group_of_lines_takes_one_write_for_each_4_kib(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = LogWriter(pipe[1], report_dropped=lambda _: None)
    sizes: list[int] = []
    write = os.write

    def write_and_count(end: int, data: bytes) -> int:
        sizes.append(len(data))
        return write(end, data)

    monkeypatch.setattr(os, "write", write_and_count)
    lines = [b"%02d" % number + b"x" * 197 + b"\n" for number in range(64)]

    writer.write(lines)

    assert sizes == [4000, 4000, 4000, 800]
    assert os.read(pipe[0], 20_000) == b"".join(lines)


def test_lines_that_a_full_pipe_does_not_take_follow_in_order(pipe: tuple[int, int]) -> None:
    writer = LogWriter(pipe[1], report_dropped=lambda _: None)
    lines = [b"%04d" % number + b"x" * 195 + b"\n" for number in range(1000)]

    writer.write(lines[:990])
    writer.write(lines[990:])

    received = b""
    while len(received) < 200_000:
        received += os.read(pipe[0], 65536)
    assert received == b"".join(lines)
