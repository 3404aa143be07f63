"""Fixtures: listeners on real sockets, and a way to send them raw bytes."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from socket import socket

import pytest
from harness.web_app import SendBytes, Serve, WebApp, a_web_app
from starlette.types import ASGIApp

from receiver.settings import Address
from receiver.web.server.connections import ConnectionLimits
from receiver.web.server.listener import Listener


@pytest.fixture
def stop() -> asyncio.Event:
    """An event that stops all listeners of the test."""
    return asyncio.Event()


@pytest.fixture
async def serve(stop: asyncio.Event) -> AsyncIterator[Serve]:
    """Serve an app until the test ends. Returns its address."""
    async with serving(stop) as start:
        yield start


@asynccontextmanager
async def serving(stop: asyncio.Event) -> AsyncIterator[Serve]:
    """Serve apps until the block ends."""
    running: list[asyncio.Task[None]] = []

    async def start(
        app: ASGIApp,
        *,
        host: str = "127.0.0.1",
        sockets: Sequence[socket] = (),
        limits: ConnectionLimits | None = None,
    ) -> Address:
        listener = Listener(
            app,
            key="[public] listen",
            address=Address(host, 0),
            sockets=sockets,
            limits=limits,
            grace=timedelta(seconds=1),
        )
        running.append(asyncio.create_task(listener.serve(stop)))
        await listener.started.wait()
        return listener.addresses[0]

    yield start

    stop.set()
    await asyncio.gather(*running)


@pytest.fixture
def send_bytes() -> SendBytes:
    """Send bytes, and return everything until the server closes."""

    async def send_bytes(address: Address, sent: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(sent)
        try:
            return await reader.read()
        except ConnectionResetError:
            return b""
        finally:
            writer.close()

    return send_bytes


@pytest.fixture
async def web(serve: Serve, tmp_path: Path) -> AsyncIterator[WebApp]:
    """The web layer of a receiver."""
    async with a_web_app(serve, tmp_path) as web:
        yield web
