"""What tests of the web edge share: listeners on real sockets, and a way to speak raw bytes to them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from socket import socket

import pytest
import uvloop
from edge import House, Say, Serve, open_house
from starlette.types import ASGIApp

from receiver.settings import Address
from receiver.web.connection import ConnectionMaker, HttptoolsConnection, Limits
from receiver.web.listener import Listener


def pytest_asyncio_loop_factories(
    config: pytest.Config,  # noqa: ARG001 -- the hook's own name
    item: pytest.Item,
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run every test on the service's loop, and what hangs on a loop's own ways on the standard one too."""
    loops: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"uvloop": uvloop.new_event_loop}
    if item.path.name in ("test_listener.py", "test_stream.py"):
        loops["asyncio"] = asyncio.SelectorEventLoop
    return loops


@pytest.fixture
def stop() -> asyncio.Event:
    """Stop all listeners of the test."""
    return asyncio.Event()


@pytest.fixture
async def serve(stop: asyncio.Event) -> AsyncIterator[Serve]:
    """Serve an app until the test is over, and tell where."""
    running: list[asyncio.Task[None]] = []

    async def start(
        app: ASGIApp,
        *,
        host: str = "127.0.0.1",
        sockets: Sequence[socket] = (),
        limits: Limits | None = None,
        connection: ConnectionMaker = HttptoolsConnection,
    ) -> Address:
        listener = Listener(
            app,
            key="[public] listen",
            address=Address(host, 0),
            sockets=sockets,
            limits=limits,
            grace=timedelta(seconds=1),
            connection=connection,
        )
        running.append(asyncio.create_task(listener.serve(stop)))
        await listener.started.wait()
        return listener.addresses[0]

    yield start

    stop.set()
    await asyncio.gather(*running)


@pytest.fixture
def say() -> Say:
    """Send bytes, and give all that comes back until the other side closes."""

    async def say(address: Address, sent: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(sent)
        try:
            return await reader.read()
        except ConnectionResetError:
            return b""
        finally:
            writer.close()

    return say


@pytest.fixture
async def house(serve: Serve, tmp_path: Path) -> AsyncIterator[House]:
    """Open a receiver's web edge."""
    async with open_house(serve, tmp_path) as house:
        yield house
