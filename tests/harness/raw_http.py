"""Minimal HTTP client for tests: keep-alive connections that can send any bytes, at little cost."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import urlsplit

from harness.waiting import wait_until


@dataclass(frozen=True, slots=True, kw_only=True)
class RawResponse:
    """A response. Header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(slots=True)
class RawConnection:
    """One connection to a server."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    async def open(cls, url: str, *, headers: Mapping[str, str] | None = None) -> Self:
        """Connect to *url*'s host. Every request carries *headers*."""
        parts = urlsplit(url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        return cls(reader, writer, {"host": parts.netloc, **(headers or {})})

    async def request(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> RawResponse:
        """Send a request and return its response."""
        self.send_request(method, path, body, headers)
        return await self.read_response()

    def send_request(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        """Send a request."""
        fields = {**self.headers, "content-length": str(len(body)), **(headers or {})}
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        self.writer.write(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body)

    async def read_response(self) -> RawResponse:
        """Read a response; EOF before its end raises IncompleteReadError."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:-2])}
        body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        return RawResponse(status=int(head[0].split()[1]), headers=headers, body=body)

    def abort(self) -> None:
        """Reset the connection."""
        self.writer.transport.abort()

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()


@contextlib.asynccontextmanager
async def a_connection(url: str, *, headers: Mapping[str, str] | None = None) -> AsyncIterator[RawConnection]:
    """Connect, and close at the end."""
    connection = await RawConnection.open(url, headers=headers)
    try:
        yield connection
    finally:
        await connection.close()


async def http_request(
    method: str, url: str, body: bytes = b"", headers: Mapping[str, str] | None = None
) -> RawResponse:
    """Send one request on a new connection."""
    parts = urlsplit(url)
    async with a_connection(url) as connection:
        return await connection.request(method, parts.path, body, headers)


async def wait_until_answered(method: str, url: str, body: bytes = b"", *, seconds: float = 60) -> RawResponse:
    """Return the first answer at a URL where nothing may listen yet. Raise TimeoutError after *seconds*."""
    answers: list[RawResponse] = []

    async def is_answered() -> bool:
        try:
            answers.append(await http_request(method, url, body))
        except (OSError, asyncio.IncompleteReadError):
            return False
        return True

    await wait_until(is_answered, seconds=seconds, interval=0.05)
    return answers[0]
