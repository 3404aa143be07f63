"""The listener: numbers of connections, addresses, and an orderly stop."""

import asyncio
import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from ipaddress import ip_network
from time import perf_counter
from typing import Any

import pytest
from harness.echo_app import GET, SHORT_LIMITS, echo
from harness.waiting import let_loop_run, wait_until
from harness.web_app import SendBytes, Serve
from starlette.types import Receive, Scope, Send

from receiver.domain.errors import BindFailed
from receiver.settings import Address
from receiver.web.server.client_address import TrustedProxies
from receiver.web.server.connections import ConnectionLimits
from receiver.web.server.listener import Listener

Call = Callable[..., Awaitable[asyncio.StreamReader]]


@contextlib.asynccontextmanager
async def a_connection(address: Address) -> AsyncIterator[Call]:
    """Open connections from any loopback address; they last until the test ends."""
    writers = []

    async def call(source: str, sent: bytes = GET + b"\r\n") -> asyncio.StreamReader:
        reader, writer = await asyncio.open_connection(address.host, address.port, local_addr=(source, 0))
        writers.append(writer)
        writer.write(sent)
        return reader

    try:
        yield call
    finally:
        for writer in writers:
            writer.transport.abort()
        await asyncio.sleep(0)


async def status(reader: asyncio.StreamReader) -> int:
    """Return the status of an answer, or 0 without one."""
    try:
        return int(((await reader.readline()).split() or [b"", b"0"])[1])
    except ConnectionResetError:
        return 0


async def test_a_peer_has_a_limit_of_connections(serve: Serve) -> None:
    address = await serve(echo, limits=ConnectionLimits(per_peer=2))

    async with a_connection(address) as call:
        peers = ["127.0.0.1", "127.0.0.1", "127.0.0.1", "127.0.0.2"]
        statuses = [await status(await call(peer)) for peer in peers]

    assert statuses == [200, 200, 503, 200]

    async def has_room() -> bool:
        async with a_connection(address) as call:
            return await status(await call("127.0.0.1")) == 200

    await wait_until(has_room)


async def test_a_trusted_proxy_may_use_all_connections(serve: Serve) -> None:
    limits = ConnectionLimits(per_peer=2, proxies=TrustedProxies([ip_network("127.0.0.8/32")]))
    address = await serve(echo, limits=limits)

    async with a_connection(address) as call:
        statuses = [await status(await call("127.0.0.8")) for _ in range(10)]

    assert statuses == [200] * 10


async def test_concurrent_requests_are_limited(serve: Serve) -> None:
    go_on, started = asyncio.Event(), 0

    async def wait(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal started
        started += 1
        await go_on.wait()
        await echo(scope, receive, send)

    address = await serve(wait, limits=ConnectionLimits(connections=3))
    async with a_connection(address) as call:
        first = [await call("127.0.0.1") for _ in range(3)]
        await wait_until(lambda: started == 3)  # a connection without a request could be evicted
        refused = await status(await call("127.0.0.2"))
        go_on.set()

        assert refused == 503
        assert [await status(reader) for reader in first] == [200, 200, 200]


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"POST / HTTP/1.1\r\nhost: h\r\nx-drip: ", id="half a head"),
        pytest.param(b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 9\r\n\r\nhalf", id="half a body"),
        pytest.param(GET + b"\r\n", id="a request and then nothing"),
    ],
)
async def test_a_flood_of_slow_clients_does_not_block_others(serve: Serve, sent: bytes) -> None:
    address = await serve(echo, limits=ConnectionLimits(connections=40, per_peer=20))
    flood = [f"127.0.1.{number}" for number in range(1, 9)]

    async with a_connection(address) as call:
        for peer in flood * 20:
            await call(peer, sent)
        statuses = []
        for number in range(20):
            statuses.append(await status(await call(f"127.0.2.{number + 1}")))
            await call(flood[number % len(flood)], sent)

    assert statuses == [200] * 20


async def test_the_peer_with_the_most_connections_loses_one_of_its_own(serve: Serve) -> None:
    address = await serve(echo, limits=ConnectionLimits(connections=6))

    async with a_connection(address) as call:
        quiet = await call("127.0.0.2", b"POST / HTTP/1.1\r\nhost: h\r\nx-drip: ")
        kept_alive = await call("127.0.0.3")
        served = await status(kept_alive)
        many = [await call("127.0.0.4", GET) for _ in range(4)]
        one_more = await status(await call("127.0.0.5"))

        ends = [asyncio.ensure_future(status(reader)) for reader in many]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        assert (served, one_more) == (200, 200)
        assert [end.result() for end in ends if end.done()] == [503]
        assert not quiet.at_eof()
        assert not kept_alive.at_eof()
        for end in ends:
            end.cancel()


async def test_silent_connections_do_not_delay_a_stop() -> None:
    stop = asyncio.Event()
    address = Address("127.0.0.1", 0)
    listener = Listener(echo, key="[public] listen", address=address, grace=timedelta(seconds=1))
    serving = asyncio.create_task(listener.serve(stop))
    await listener.started.wait()
    address = listener.addresses[0]
    writers = []
    for sent in (b"", b"GET / HT", GET + b"\r\n", b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 9\r\n\r\nhalf"):
        _, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(sent)
        writers.append(writer)
    started = perf_counter()

    stop.set()
    await serving

    assert perf_counter() - started < 3
    for writer in writers:
        writer.close()


async def test_a_request_in_flight_is_answered_before_the_listener_stops() -> None:
    stop, arrived, go_on = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def wait(scope: Scope, receive: Receive, send: Send) -> None:
        arrived.set()
        await go_on.wait()
        await echo(scope, receive, send)

    listener = Listener(wait, key="[public] listen", address=Address("127.0.0.1", 0))
    serving = asyncio.create_task(listener.serve(stop))
    await listener.started.wait()
    reader, writer = await asyncio.open_connection("127.0.0.1", listener.addresses[0].port)
    writer.write(GET + b"\r\n")
    await arrived.wait()

    stop.set()
    await let_loop_run()  # so that the stop begins first
    go_on.set()
    answer = await reader.read()
    await serving

    assert b" 200 " in answer
    writer.close()


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_sigterm_is_left_to_the_owner_and_ends_the_process_in_order(loop: str) -> None:
    program = f"""
import asyncio, signal, sys, uvloop
from datetime import timedelta
from receiver.settings import Address
from receiver.web.server.listener import Listener
async def app(scope, receive, send):
    while (await receive()).get("more_body"): pass
async def main():
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    listener = Listener(app, key="k", address=Address("127.0.0.1", 0), grace=timedelta(seconds=1))
    serving = asyncio.create_task(listener.serve(stop))
    await listener.started.wait()
    print(listener.addresses[0].port, flush=True)
    await serving
    print("drained", flush=True)
{loop}.run(main())
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    while not (line := process.stdout.readline()).strip().isdigit():
        assert line, "the process ended early"
    silent = socket.create_connection(("127.0.0.1", int(line)))
    half = socket.create_connection(("127.0.0.1", int(line)))
    half.sendall(b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 9\r\n\r\nhalf")

    process.send_signal(signal.SIGTERM)
    rest, _ = process.communicate(timeout=10)

    assert process.returncode == 0
    assert rest.endswith("drained\n")
    silent.close()
    half.close()


async def test_an_inherited_socket_answers_without_delay(serve: Serve) -> None:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        opened.listen()
        handed_over = socket.socket(fileno=os.dup(opened.fileno()))
    address = await serve(echo, sockets=[handed_over])
    reader, writer = await asyncio.open_connection(address.host, address.port)
    started = perf_counter()

    for _ in range(25):
        writer.write(b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\n\r\nhi")
        await reader.readuntil(b"heard hi")

    assert (perf_counter() - started) / 25 < 0.02
    writer.close()


async def test_an_address_in_use_is_named_with_its_key() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        listener = Listener(echo, key="[public] listen", address=Address("127.0.0.1", port))

        with pytest.raises(BindFailed) as refusal:
            await listener.serve(asyncio.Event())

    assert f"127.0.0.1:{port}" in str(refusal.value)
    assert "[public] listen" in str(refusal.value)


async def test_an_address_is_in_use_as_soon_as_it_is_bound() -> None:
    first = Listener(echo, key="[public] listen", address=Address("127.0.0.1", 0))
    first.bind()
    second = Listener(echo, key="[admin] listen", address=first.addresses[0])

    with pytest.raises(BindFailed, match=r"\[admin\] listen"):
        second.bind()

    stop = asyncio.Event()
    stop.set()
    await first.serve(stop)


@pytest.mark.skipif(not socket.has_ipv6, reason="this machine has no IPv6")
async def test_ipv6_is_served(serve: Serve, send_bytes: SendBytes) -> None:
    address = await serve(echo, host="::1")

    answer = await send_bytes(address, GET + b"connection: close\r\n\r\n")

    assert answer.startswith(b"HTTP/1.1 200 ")


async def test_ten_thousand_malformed_requests_cost_only_their_connection(serve: Serve, send_bytes: SendBytes) -> None:
    address = await serve(echo, limits=SHORT_LIMITS)
    chance = random.Random(20261122)
    rounds = 10_000
    whole = b"POST /a?b=c HTTP/1.1\r\nhost: localhost\r\ncontent-length: 4\r\nx-y: z\r\nconnection: close\r\n\r\nbody"
    loop = asyncio.get_running_loop()
    faults: list[Any] = []
    loop.set_exception_handler(lambda _, context: faults.append(context))

    def broken() -> bytes:
        bytes_ = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(len(bytes_))
            match chance.randrange(3):
                case 0:
                    bytes_[at] = chance.randrange(256)
                case 1:
                    del bytes_[at : at + chance.randint(1, 5)]
                case _:
                    bytes_[at:at] = chance.randbytes(chance.randint(1, 5))
        return bytes(bytes_)

    async def send_request() -> bytes:
        reader, writer = await asyncio.open_connection(address.host, address.port)
        try:
            writer.write(broken())
            writer.write_eof()
            return await reader.read()
        except OSError:  # the server has closed the connection before all was sent
            return b""
        finally:
            writer.close()

    for _ in range(rounds // 100):
        answers = await asyncio.gather(*(send_request() for _ in range(100)))
        assert not [answer for answer in answers if answer.startswith(b"HTTP/1.1 500 ")]

    async def is_served() -> bool:  # on a busy machine, one request may exceed its short limits
        return b"heard body" in await send_bytes(address, whole)

    assert not faults
    await wait_until(is_served)
