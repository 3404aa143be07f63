"""A Kling on loopback that answers from a script, and a client of it."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeAlias

from harness.clock import FakeClock

from receiver.domain.secret import Secret
from receiver.kling.client import KlingClient
from receiver.kling.pass_through import PassThrough
from receiver.net.http_client import HttpClient, StreamedBody
from receiver.settings import KlingSettings

ENDPOINT = "images/multi-image2image"
NEW = "text-to-video/kling-3.0-turbo"
KEY = "sk-canary-4711"
SECRET_KEY = "secret-canary-0815"
CREATED = {
    "code": 0,
    "message": "SUCCEED",
    "request_id": "r-1",
    "data": {"task_id": "867283741759111202", "task_status": "submitted", "task_info": {"external_task_id": "tsk_1"}},
}


@dataclass(frozen=True, kw_only=True)
class Request:
    """What reached the server."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, kw_only=True)
class ScriptedAnswer:
    """What the server answers; ``raw`` is sent before hanging up, and may be empty."""

    document: object = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    raw: bytes | None = None
    never_answers: bool = False


Script: TypeAlias = Callable[[Request], ScriptedAnswer]


@dataclass(kw_only=True)
class ScriptedServer:
    """A Kling on loopback that answers from a script and keeps what it was asked."""

    script: Script
    requests: list[Request] = field(default_factory=list)
    url: str = ""
    connection_tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talk = asyncio.current_task()
        assert talk is not None
        self.connection_tasks.add(talk)
        try:
            while head := await _head(reader):
                line, *lines = head.decode("latin-1").split("\r\n")
                method, target, _ = line.split(" ")
                pairs = (entry.split(": ", 1) for entry in lines if entry)
                headers = {name.lower(): value for name, value in pairs}
                body = await _body(reader, headers)
                request = Request(method=method, target=target, headers=headers, body=body)
                self.requests.append(request)
                answer = self.script(request)
                if answer.never_answers:
                    await reader.read()
                    return
                if answer.raw == b"":
                    return
                writer.write(answer.raw or _encode(answer))
                await writer.drain()
                if answer.raw:
                    return
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


async def _head(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return b""


async def _body(reader: asyncio.StreamReader, headers: Mapping[str, str]) -> bytes:
    if "transfer-encoding" not in headers:
        return await reader.readexactly(int(headers.get("content-length", 0)))
    body = b""
    while size := int(await reader.readline(), 16):
        body += await reader.readexactly(size)
        await reader.readline()
    await reader.readline()
    return body


def _encode(answer: ScriptedAnswer) -> bytes:
    body = answer.document if isinstance(answer.document, bytes) else json.dumps(answer.document).encode()
    headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), **answer.headers}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {answer.status} Whatever\r\n{lines}\r\n".encode() + body


def _url(listening: asyncio.Server) -> str:
    port = listening.sockets[0].getsockname()[1]
    return f"http://127.0.0.1:{port}"


@contextlib.asynccontextmanager
async def a_scripted_server(script: Script | ScriptedAnswer) -> AsyncIterator[ScriptedServer]:
    server = ScriptedServer(script=script if callable(script) else lambda _: script)
    listening = await asyncio.start_server(server, "127.0.0.1", 0)
    server.url = _url(listening)
    try:
        yield server
    finally:
        await asyncio.gather(*server.connection_tasks)
        listening.close()
        await listening.wait_closed()


@contextlib.asynccontextmanager
async def a_client(
    url: str, *, clock: FakeClock | None = None, key: str | None = KEY, pair: bool = False, seconds: float = 5
) -> AsyncIterator[KlingClient]:
    settings = KlingSettings.model_construct(
        base_url=url,
        api_key=Secret(key) if key and not pair else None,
        access_key=Secret("access-canary") if pair else None,
        secret_key=Secret(SECRET_KEY) if pair else None,
        timeout=timedelta(seconds=seconds),
    )
    http_client = HttpClient(user_agent="kling-receiver/test")
    try:
        yield KlingClient(settings, http_client=http_client, clock=clock or FakeClock())
    finally:
        await http_client.aclose()


async def forward(
    kling: KlingClient,
    method: str,
    path: str,
    *,
    query: str = "",
    content: bytes | StreamedBody = b"",
    headers: Mapping[str, str] | None = None,
) -> tuple[int, Mapping[str, str], bytes]:
    given: list[tuple[int, Mapping[str, str], bytes]] = []

    async def give(status: int, answered: Mapping[str, str], pieces: AsyncIterator[bytes]) -> None:
        given.append((status, answered, b"".join([piece async for piece in pieces])))

    await kling.forward(method, path, content, PassThrough(query=query, headers=headers or {}), write_response=give)
    (only,) = given
    return only
