"""A load that cannot go on says so, instead of standing still until a test gives up."""

import asyncio
import contextlib
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from harness.load import LoadGenerator
from harness.running_service import Receiver, a_config


async def test_a_failed_client_of_the_load_is_reported_at_once(tmp_path: Path) -> None:
    receiver = Receiver(tmp_path, a_config("http://127.0.0.1:9"))
    (tmp_path / "var").mkdir()
    (tmp_path / "var" / "admin-token").write_text("a-token")

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(asyncio.IncompleteReadError):  # other clients may leave
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 201 Created\r\ncontent-length: 2\r\n\r\n[]")  # it names no task

    admin = urlsplit(receiver.admin)
    async with await asyncio.start_server(answer, admin.hostname, admin.port):
        load = LoadGenerator(receiver)
        running = asyncio.create_task(load.run(asyncio.Event()))

        with pytest.raises(AssertionError, match="The clients have ended"):
            await load.wait_for_acknowledged(1)
        with pytest.raises(BaseExceptionGroup):
            await running
