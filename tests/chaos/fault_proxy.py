"""A proxy on loopback between the receiver and a webhook that injects one fault per request."""

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from harness.http_peers import Request, read_request, response, tcp_server
from harness.raw_http import RawConnection

PASS_THROUGH = "fair"
FAULTS = {
    "slow": "",
    "dripping": "",
    "hanging": r"received the request but did not answer within",
    "reset": r"received the request and reset the connection without a response",
    "half-closed": r"received the request and closed the connection without a response",
    "unanswered": r"received the request and closed the connection without a response",
    "cut off": "",
    "garbled": r"sent a response that is not valid HTTP",
    "slammed": r"closed the connection before the request was sent|received the request and (reset|closed) the ",
}
"""The faults, and the expected reason of each. A slow answer and a broken body have none: the answer's head decides."""

UNHEARD = frozenset({"reset", "half-closed", "unanswered"})
"""The faults without a byte of an answer. On an idle connection the request is sent again, on a new one."""

NOT_TLS = "not tls"

_GARBAGE = b"220 mail.example ESMTP\r\n\r\n"
_SLOW, _DRIP_INTERVAL = 0.1, 0.1


@dataclass(slots=True, kw_only=True)
class FaultProxy:
    """Forwards requests to the webhook at *upstream*, or injects the fault that *choose_fault* returns."""

    upstream: str
    choose_fault: Callable[[], str] = lambda: PASS_THROUGH
    tls: ssl.SSLContext | None = None
    port: int = 0
    applied: dict[tuple[str, int], str] = field(default_factory=dict)
    webhook_ids: dict[str, set[str]] = field(default_factory=dict)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection until it ends or fails."""
        fault: str | None = self.choose_fault()
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, RuntimeError):  # RuntimeError comes from uvloop
            if fault == "slammed":
                return
            if fault == NOT_TLS:
                await reader.read(65536)
                writer.write(_GARBAGE)
                await writer.drain()
                return
            if self.tls is not None:
                await writer.start_tls(self.tls)
            while True:
                request = await read_request(reader)
                fault = fault or self.choose_fault()
                self._record(request, fault)
                if not await self._apply_fault(fault, request, reader, writer):
                    return
                fault = None

    def _record(self, request: Request, fault: str) -> None:
        delivery = request.headers["kling-receiver-delivery"]
        self.applied[delivery, int(request.headers["kling-receiver-attempt"])] = fault
        self.webhook_ids.setdefault(delivery, set()).add(request.headers["webhook-id"])

    async def _apply_fault(
        self, fault: str, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Apply the fault to one request. Return whether the connection stays open."""
        match fault:
            case "hanging" | "half-closed":
                if fault == "half-closed":
                    writer.write_eof()
                while await reader.read(65536):
                    pass
            case "reset" | "slammed":
                sock = writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            case "garbled":
                writer.write(_GARBAGE)
                await writer.drain()
            case _:
                return await self._forward(fault, request, writer)
        return False

    async def _forward(self, fault: str, request: Request, writer: asyncio.StreamWriter) -> bool:
        """Forward the request, and apply the fault to the answer."""
        await asyncio.sleep(_SLOW if fault == "slow" else 0.0)
        answer = await self._fetch_upstream(request)
        head = answer.index(b"\r\n\r\n") + 4
        match fault:
            case "unanswered":
                return False
            case "cut off":
                writer.write(answer[:-1])
                await writer.drain()
                return False
            case "dripping":
                writer.write(answer[:head])
                for place in range(head, len(answer)):
                    writer.write(answer[place : place + 1])
                    await writer.drain()
                    await asyncio.sleep(_DRIP_INTERVAL)
            case _:
                writer.write(answer)
                await writer.drain()
        return True

    async def _fetch_upstream(self, request: Request) -> bytes:
        connection = await RawConnection.open(self.upstream)
        try:
            method, path, _ = request.line.split()
            own = {name: value for name, value in request.headers.items() if name not in ("host", "content-length")}
            answer = await connection.request(method, path, request.body, own)
        finally:
            connection.abort()
        return response(answer.status, answer.body)


@contextlib.asynccontextmanager
async def a_fault_proxy(upstream: str, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[FaultProxy]:
    """Run a proxy in front of *upstream* on a free loopback port."""
    proxy = FaultProxy(upstream=upstream, tls=tls)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await proxy.serve(reader, writer)
        finally:
            writer.close() if writer.transport.get_write_buffer_size() else writer.transport.abort()

    async with tcp_server(serve, backlog=512) as proxy.port:
        yield proxy
