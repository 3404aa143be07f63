"""An app that echoes a request's body, and the bytes of requests to it."""

import asyncio
from datetime import timedelta

from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from receiver.settings import Address
from receiver.web.server.connections import ConnectionLimits

SHORT_LIMITS = ConnectionLimits(
    head=timedelta(seconds=0.2),
    request=timedelta(seconds=0.4),
    idle=timedelta(seconds=0.3),
    stall=timedelta(seconds=0.3),
)
GET = b"GET / HTTP/1.1\r\nhost: localhost\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n"


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    body = await Request(scope, receive).body()
    await PlainTextResponse(b"heard " + body)(scope, receive, send)


async def outlast_the_limits(address: Address) -> None:
    """Wait until the listener has cut off a new connection, which sends half a head."""
    reader, writer = await asyncio.open_connection(address.host, address.port)
    writer.write(GET)
    await reader.read()
    writer.close()
