"""Floods of connections and of unwanted bodies cost little time and no memory."""

import asyncio
import tracemalloc
from ipaddress import ip_network

import pytest
from harness.echo_app import CHUNKED, GET, echo
from harness.waiting import let_loop_run, wait_until
from harness.web_app import Serve
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from receiver.settings import Address
from receiver.web.server.client_address import TrustedProxies
from receiver.web.server.connections import ConnectionLimits

MIB = 1024 * 1024
REFUSE = PlainTextResponse("no", 404)


class CountingProxies(TrustedProxies):
    """Counts how often an address is compared with the proxies."""

    def __init__(self) -> None:
        super().__init__([ip_network("10.0.0.0/8")])
        self.compared = 0

    def contains(self, client: tuple[str, int] | None) -> bool:
        self.compared += 1
        return super().contains(client)


async def open_all(address: Address, count: int, sent: bytes) -> list[asyncio.StreamWriter]:
    writers = []
    for number in range(count):
        source = (f"127.0.3.{number % 200 + 1}", 0)
        _, writer = await asyncio.open_connection(address.host, address.port, local_addr=source)
        writer.write(sent)
        writers.append(writer)
    return writers


def abort_all(writers: list[asyncio.StreamWriter]) -> None:
    for writer in writers:
        writer.transport.abort()


async def test_a_connection_is_compared_with_the_proxies_once(serve: Serve) -> None:
    proxies = CountingProxies()
    address = await serve(echo, limits=ConnectionLimits(connections=20, proxies=proxies))

    writers = await open_all(address, 100, b"GET / HT")
    await wait_until(lambda: proxies.compared >= 100)

    assert proxies.compared == 100
    abort_all(writers)


async def test_a_flood_evicts_no_connection_that_was_served(serve: Serve) -> None:
    address = await serve(echo, limits=ConnectionLimits(connections=40))
    reader, writer = await asyncio.open_connection(address.host, address.port)
    writer.write(GET + b"\r\n")
    await reader.readuntil(b"heard ")

    flood = await open_all(address, 200, b"")
    writer.write(GET + b"\r\n")
    async with asyncio.timeout(5):
        again = await reader.readuntil(b"heard ")

    assert b" 200 " in again
    abort_all([writer, *flood])


@pytest.mark.parametrize("ends", [False, True], ids=["open", "closed"])
async def test_a_refused_body_releases_its_memory(serve: Serve, *, ends: bool) -> None:
    begun = refused = 0

    async def refuse_late(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal begun, refused
        begun += 1
        await wait_until(lambda: begun == 50)  # so that some of each body has arrived
        await REFUSE(scope, receive, send)
        refused += 1

    address = await serve(refuse_late)
    half = b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: %d\r\n\r\n" % MIB + b"x" * 200_000
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()

    writers = await open_all(address, 50, half)
    if ends:
        abort_all(writers)
    await wait_until(lambda: refused == 50)
    await let_loop_run(200)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert after - before < 3 * MIB
    abort_all(writers)


async def test_a_body_after_its_answer_is_discarded_within_a_limit(serve: Serve) -> None:
    address = await serve(REFUSE, limits=ConnectionLimits(drained_bytes=MIB))
    reader, writer = await asyncio.open_connection(address.host, address.port)
    writer.write(CHUNKED)
    await reader.readuntil(b"no")

    sent, closed = 0, asyncio.ensure_future(reader.read())
    async with asyncio.timeout(5):
        while not closed.done():
            writer.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")
            sent += 65536
            await asyncio.wait([closed], timeout=0.01)

    assert MIB <= sent < 64 * MIB
    assert closed.exception() or closed.result() == b""
    writer.close()
