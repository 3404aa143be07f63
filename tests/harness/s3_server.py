"""S3-compatible storage as a local process that checks signatures and digests, and can be stopped."""

import asyncio
import contextlib
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from harness.ports import free_port
from harness.waiting import wait_until

ACCESS_KEY, SECRET_KEY = "the-access-key-of-a-test", "the-secret-key-of-a-test"
BUCKET = "results"

_RCLONE = Path(sys.executable).with_name("rclone")
_STARTED = re.compile(r"Starting s3 server")


class S3Server:
    """The storage process. Each folder of ``root`` is a bucket, each file in it an object."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.port = free_port()
        self.log_path = root.with_suffix(".log")
        self._process: subprocess.Popen[bytes] | None = None
        (root / BUCKET).mkdir(parents=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Start it, always on the same port, and wait until it is ready."""
        with self.log_path.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    *(str(_RCLONE), "serve", "s3", str(self.root), "--addr", f"127.0.0.1:{self.port}"),
                    *("--auth-key", f"{ACCESS_KEY},{SECRET_KEY}", "--config", os.devnull),
                    *("--no-cleanup", "--dir-cache-time", "20ms", "--log-level", "DEBUG"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        await wait_until(lambda: bool(_STARTED.search(self.log())))

    def stop(self) -> None:
        """Kill it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def log(self) -> str:
        """Return its log of requests."""
        return self.log_path.read_text()

    def objects(self, bucket: str = BUCKET) -> dict[str, bytes]:
        """Return all objects of a bucket, by key."""
        folder = self.root / bucket
        return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@contextlib.asynccontextmanager
async def an_s3_server(folder: Path) -> AsyncIterator[S3Server]:
    """Run a storage server with one empty bucket."""
    s3 = S3Server(folder / "buckets")
    await s3.start()
    try:
        yield s3
    finally:
        s3.stop()


async def _ignore(_: bytes) -> None:
    """Do nothing."""


@contextlib.asynccontextmanager
async def s3_proxy(
    port: int,
    *,
    transform: Callable[[bytes], bytes] = bytes,
    on_response: Callable[[bytes], Awaitable[None]] = _ignore,
) -> AsyncIterator[str]:
    """Forward requests to the storage. *transform* may change a request's body, *on_response* may delay an answer."""
    ends: set[asyncio.Task[None]] = set()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, there = await asyncio.open_connection("127.0.0.1", port)
        try:
            while True:
                head, body = await _read_message(reader)
                there.write(head + transform(body))
                answer_head, answer = await _read_message(upstream_reader)
                await on_response(head)
                writer.write(answer_head + answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            there.close()
            writer.close()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(relay(reader, writer))
        ends.add(task)
        task.add_done_callback(ends.discard)

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in tuple(ends):
            task.cancel()
        await asyncio.gather(*ends, return_exceptions=True)
        await asyncio.sleep(0)


async def _read_message(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: *(\d+)", head)
    return head, await reader.readexactly(int(length[1]) if length else 0)
