"""How many pages may follow the store at once."""

import asyncio
from contextlib import AsyncExitStack

import pytest
from console.test_gate import session
from harness.web_app import READ_TOKEN, WebApp

from receiver.web.console.live import MAX_FOLLOWERS

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def follow(web: WebApp, stack: AsyncExitStack, cookie: str) -> bytes:
    """Start to follow the store, until *stack* is closed. Return the status of the answer."""
    reader, writer = await asyncio.open_connection(web.admin.host, web.admin.port)
    stack.callback(writer.close)
    writer.write(f"GET /console/live HTTP/1.1\r\nhost: {web.admin}\r\ncookie: {cookie}\r\n\r\n".encode())
    return (await reader.readline()).split(b" ")[1]


async def test_readers_cannot_take_the_live_streams_of_an_administrator(web: WebApp) -> None:
    reader, administrator = await session(web, READ_TOKEN), await session(web)
    async with AsyncExitStack() as stack:
        readers = [await follow(web, stack, reader) for _ in range(MAX_FOLLOWERS + 2)]

        assert readers == [b"200"] * MAX_FOLLOWERS + [b"503"] * 2
        assert await follow(web, stack, administrator) == b"200"
