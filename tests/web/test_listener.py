"""What a connection may do to us, on real sockets."""

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
from harness.waiting import wait_until
from harness.web_app import SendBytes, Serve
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.types import Receive, Scope, Send

from receiver.domain.errors import BindFailed
from receiver.settings import Address
from receiver.web.server.client_address import TrustedProxies
from receiver.web.server.connections import ConnectionLimits
from receiver.web.server.listener import Listener

SHORT_LIMITS = ConnectionLimits(
    head=timedelta(seconds=0.2),
    request=timedelta(seconds=0.4),
    idle=timedelta(seconds=0.3),
    stall=timedelta(seconds=0.3),
)
GET = b"GET / HTTP/1.1\r\nhost: localhost\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n"

Call = Callable[..., Awaitable[asyncio.StreamReader]]


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    body = await Request(scope, receive).body()
    await PlainTextResponse(b"heard " + body)(scope, receive, send)


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"", id="nothing at all"),
        pytest.param(b"GET / HT", id="half a request line"),
        pytest.param(GET + b"x: y", id="half a head"),
        pytest.param(b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 9\r\n\r\nhalf", id="half a body"),
        pytest.param(b"POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n5\r\nab", id="half a chunk"),
        pytest.param(GET + b"\r\n", id="a request, then nothing"),
        pytest.param(GET + b"\r\n" + GET, id="a request, then half of one"),
    ],
)
async def test_who_falls_silent_is_cut_off(serve: Serve, send_bytes: SendBytes, sent: bytes) -> None:
    address = await serve(echo, limits=SHORT_LIMITS)

    async with asyncio.timeout(3):
        answer = await send_bytes(address, sent)

    assert b" 500 " not in answer


@pytest.mark.parametrize(
    ("start", "drop"),
    [
        pytest.param(b"GET / HTTP/1.1\r\nhost: h\r\n", b"a: b\r\n", id="head"),
        pytest.param(b"POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n", b"1\r\na\r\n", id="body"),
    ],
)
async def test_who_drips_for_ever_is_cut_off(serve: Serve, start: bytes, drop: bytes) -> None:
    address = await serve(echo, limits=SHORT_LIMITS)
    reader, writer = await asyncio.open_connection(address.host, address.port)
    writer.write(start)
    answer = asyncio.ensure_future(reader.read())

    async with asyncio.timeout(3):
        while not answer.done():
            writer.write(drop)
            await asyncio.wait([answer], timeout=0.02)

    # Still sending when it is cut off, it may get a reset instead of the answer.
    assert isinstance(answer.exception(), ConnectionResetError) or b" 408 " in answer.result()
    writer.close()


async def test_who_does_not_read_the_answer_is_cut_off(serve: Serve) -> None:
    ended = asyncio.Event()

    async def pour(scope: Scope, receive: Receive, send: Send) -> None:
        async def water() -> AsyncIterator[bytes]:
            while True:
                await asyncio.sleep(0)
                yield b"x" * 65536

        try:
            await StreamingResponse(water())(scope, receive, send)
        finally:
            ended.set()

    address = await serve(pour, limits=SHORT_LIMITS)
    _, writer = await asyncio.open_connection(address.host, address.port, limit=1)
    writer.write(GET + b"\r\n")

    async with asyncio.timeout(5):
        await ended.wait()

    writer.close()


async def test_a_slow_answer_is_not_cut_off(serve: Serve, send_bytes: SendBytes) -> None:
    async def ponder(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0.8)
        await echo(scope, receive, send)

    address = await serve(ponder, limits=SHORT_LIMITS)

    answer = await send_bytes(address, b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\n\r\nhi")

    assert b" 200 " in answer
    assert answer.endswith(b"heard hi")


@pytest.mark.parametrize(
    ("head", "status"),
    [
        pytest.param(GET + b"x: " + b"a" * 20_000 + b"\r\n\r\n", 431, id="one large field"),
        pytest.param(GET + b"x: y\r\n" * 150 + b"\r\n", 431, id="many fields"),
        pytest.param(b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nhost: h\r\n\r\n", 431, id="a long path"),
        pytest.param(GET + b"x: " + b"a" * 2_000_000, 431, id="a field without an end"),
        pytest.param(GET + b"a:\r\n" * 20_000, None, id="fields without an end"),
        pytest.param(GET + b"content-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400, id="two framings"),
        pytest.param(GET + b"content-length: 1\r\ncontent-length: 2\r\n\r\nab", 400, id="two lengths"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", 400, id="no host"),
        pytest.param(GET + b"host: other.example\r\n\r\n", 400, id="two hosts"),
        pytest.param(GET + b"content-length: -1\r\n\r\n", 400, id="a negative length"),
        pytest.param(GET + b"content-length: " + b"9" * 5000 + b"\r\n\r\n", 400, id="a length of 5000 digits"),
        pytest.param(b"CONNECT a.example:443 HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n", None, id="connect"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, id="TLS"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", None, id="HTTP/2"),
    ],
)
async def test_a_bad_head_is_refused(serve: Serve, send_bytes: SendBytes, head: bytes, status: int | None) -> None:
    address = await serve(echo)

    async with asyncio.timeout(5):
        answer = await send_bytes(address, head)

    # Who is still sending when we close may get a reset instead of the answer.
    assert b" 500 " not in answer
    if status is not None and len(head) < 1_000_000:
        assert answer.startswith(b"HTTP/1.1 %d " % status), answer[:200]
        assert b"application/problem+json" in answer


@pytest.mark.parametrize(
    "trailers",
    [
        pytest.param(b"webhook-signature: v1,forged\r\n\r\n", id="one"),
        pytest.param(b"x-forwarded-for: 127.0.0.1\r\na: b\r\n\r\n", id="two"),
        pytest.param(b"a:\r\n" * 3_000 + b"\r\n", id="many"),
    ],
)
async def test_a_trailer_is_refused_and_never_a_field_of_the_head(
    serve: Serve, send_bytes: SendBytes, trailers: bytes
) -> None:
    whole = []

    async def hear(scope: Scope, receive: Receive, send: Send) -> None:
        await echo(scope, receive, send)
        whole.append(scope["headers"])

    address = await serve(hear)

    async with asyncio.timeout(5):
        answer = await send_bytes(address, CHUNKED + b"2\r\nhi\r\n0\r\n" + trailers)
        hostless = await send_bytes(address, CHUNKED.replace(b"host", b"x") + b"0\r\nhost: localhost\r\n\r\n")

    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"trailers" in answer
    assert hostless.startswith(b"HTTP/1.1 400 ")
    assert whole == []


@pytest.mark.parametrize(
    ("start", "drop"),
    [
        pytest.param(b"0\r\n", b"a:\r\n" * 250, id="trailers"),
        pytest.param(b"0\r\na: ", b"b" * 1000, id="a trailer"),
        pytest.param(b"5;a=", b"b" * 1000, id="a chunk's extension"),
    ],
)
@pytest.mark.parametrize("is_answered", [True, False])
async def test_what_is_around_a_body_has_an_end(serve: Serve, start: bytes, drop: bytes, *, is_answered: bool) -> None:
    arrived = asyncio.Event()

    async def hear(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        arrived.set()
        await (PlainTextResponse("no") if is_answered else echo)(scope, receive, send)

    address = await serve(hear)
    reader, writer = await asyncio.open_connection(address.host, address.port)
    writer.write(CHUNKED + b"2\r\nhi\r\n" + start)
    await arrived.wait()
    answer, sent = asyncio.ensure_future(reader.read()), 0

    async with asyncio.timeout(5):
        while not answer.done():
            writer.write(drop)
            sent += len(drop)
            await asyncio.wait([answer], timeout=0.01)

    assert sent < 100_000
    # Still sending when it is cut off, it may get a reset instead of the answer.
    assert isinstance(answer.exception(), ConnectionResetError) or b" 400 " in answer.result()
    writer.close()


async def test_a_body_that_nobody_reads_after_the_answer_is_let_by(serve: Serve) -> None:
    address = await serve(PlainTextResponse("no"))
    reader, writer = await asyncio.open_connection(address.host, address.port)

    writer.write(CHUNKED)
    await reader.readuntil(b"no")
    for _ in range(30):
        writer.write(b"400\r\n" + b"x" * 1024 + b"\r\n")
        await writer.drain()
    writer.write(b"0\r\n\r\n" + GET + b"\r\n")

    async with asyncio.timeout(5):
        await reader.readuntil(b"no")
    writer.close()


async def test_a_few_requests_may_come_ahead_of_the_answers(serve: Serve) -> None:
    address = await serve(echo, limits=ConnectionLimits(pipelined=3))
    reader, writer = await asyncio.open_connection(address.host, address.port)
    bodies = [b"a" * 150_000, b"b", b"c" * 300_000, b"d"]
    requests = [
        CHUNKED + b"1\r\n0\r\n%x\r\n" % len(bodies[0]) + bodies[0] + b"\r\n0\r\n\r\n",
        *(GET + b"content-length: %d\r\n\r\n" % len(body) + body for body in bodies[1:]),
    ]

    async with asyncio.timeout(10):
        for _ in range(3):
            writer.write(b"".join(requests))
            for body in bodies:
                await reader.readuntil(b"\r\n\r\nheard ")
                assert (await reader.readexactly(len(body) + (body == bodies[0]))).endswith(body)
    writer.close()


async def test_a_connection_ends_after_so_many_requests_that_came_ahead(serve: Serve, send_bytes: SendBytes) -> None:
    heard = []

    async def count(scope: Scope, receive: Receive, send: Send) -> None:
        heard.append(scope["path"])
        await echo(scope, receive, send)

    address = await serve(count, limits=ConnectionLimits(pipelined=3))

    async with asyncio.timeout(5):
        few = await send_bytes(address, (GET + b"\r\n") * 20)
        await send_bytes(address, (GET + b"\r\n") * 7_000)

    assert few.count(b"HTTP/1.1 200 OK\r\n") == few.count(b"HTTP/1.1 ") == 4
    assert len(heard) == 8


async def test_what_is_wrong_with_the_next_request_is_said_after_the_answer(
    serve: Serve, send_bytes: SendBytes
) -> None:
    arrived = asyncio.Event()

    async def wait(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/":
            await arrived.wait()
        await echo(scope, receive, send)

    address = await serve(wait)
    asyncio.get_running_loop().call_later(0.05, arrived.set)

    async with asyncio.timeout(5):
        answer = await send_bytes(address, GET + b"\r\n" + CHUNKED.replace(b"/ ", b"/next ") + b"2\r\nhi\r\nzz\r\n")

    assert [part[:3] for part in answer.split(b"HTTP/1.1 ")[1:]] == [b"200", b"400"]
    assert answer.index(b"heard ") < answer.index(b"HTTP/1.1 400 ")


async def test_who_waits_for_an_answer_is_not_blamed_for_what_is_not_read_meanwhile(serve: Serve) -> None:
    async def ponder(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "GET":
            await asyncio.sleep(0.8)
        await echo(scope, receive, send)

    address = await serve(ponder, limits=SHORT_LIMITS)
    reader, writer = await asyncio.open_connection(address.host, address.port)
    body = b"b" * 1_000_000

    writer.write(GET + b"\r\n" + GET.replace(b"GET", b"PUT") + b"content-length: %d\r\n\r\n" % len(body) + body)

    async with asyncio.timeout(5):
        await reader.readuntil(b"\r\n\r\nheard ")
        await reader.readuntil(b"\r\n\r\nheard ")
        assert await reader.readexactly(len(body)) == body
    writer.close()


async def test_who_sends_ahead_without_an_end_is_not_read(serve: Serve) -> None:
    done, ended = asyncio.Event(), asyncio.Event()

    async def look_out(scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        while not done.is_set() and not await request.is_disconnected():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(done.wait(), 0.001)
        await PlainTextResponse("done")(scope, receive, send)
        ended.set()

    address = await serve(look_out)
    _, writer = await asyncio.open_connection(address.host, address.port)
    flood = (GET + b"\r\n") * 1_000_000

    writer.write(flood)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(writer.drain(), 1)

    assert writer.transport.get_write_buffer_size() > len(flood) // 2
    done.set()
    await ended.wait()
    writer.transport.abort()


async def test_who_goes_away_is_missed_also_where_another_request_waits(serve: Serve) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def pour(scope: Scope, receive: Receive, send: Send) -> None:
        async def water() -> AsyncIterator[bytes]:
            while True:
                begun.set()
                await asyncio.sleep(0.01)
                yield b"x"

        try:
            await StreamingResponse(water())(scope, receive, send)
        finally:
            ended.set()

    address = await serve(pour)
    _, writer = await asyncio.open_connection(address.host, address.port)
    writer.write((GET + b"\r\n") * 2)
    await begun.wait()

    writer.transport.abort()

    async with asyncio.timeout(5):
        await ended.wait()


async def test_a_request_before_garbage_is_answered(serve: Serve, send_bytes: SendBytes) -> None:
    address = await serve(echo)

    answer = await send_bytes(address, GET + b"\r\n\x00\x01garbage\r\n\r\n")

    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"heard " in answer


async def test_who_offers_another_protocol_is_answered_and_let_go(serve: Serve, send_bytes: SendBytes) -> None:
    address = await serve(echo, limits=ConnectionLimits(idle=timedelta(seconds=0.3)))
    offer = GET + b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n\r\n"

    async with asyncio.timeout(3):
        answer = await send_bytes(address, offer)

    assert answer.startswith(b"HTTP/1.1 200 ")


@contextlib.asynccontextmanager
async def a_connection(address: Address) -> AsyncIterator[Call]:
    """Give a way to open connections, from any address of loopback, that last as long as the test does."""
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
    """Read the status of an answer; 0 when there is none."""
    try:
        return int(((await reader.readline()).split() or [b"", b"0"])[1])
    except ConnectionResetError:
        return 0


async def test_a_peer_has_so_many_connections_and_no_more(serve: Serve) -> None:
    address = await serve(echo, limits=ConnectionLimits(per_peer=2))

    async with a_connection(address) as call:
        peers = ["127.0.0.1", "127.0.0.1", "127.0.0.1", "127.0.0.2"]
        statuses = [await status(await call(peer)) for peer in peers]

    assert statuses == [200, 200, 503, 200]

    async def has_room() -> bool:
        async with a_connection(address) as call:
            return await status(await call("127.0.0.1")) == 200

    await wait_until(has_room)


async def test_a_trusted_proxy_has_as_many_connections_as_there_are(serve: Serve) -> None:
    limits = ConnectionLimits(per_peer=2, proxies=TrustedProxies([ip_network("127.0.0.8/32")]))
    address = await serve(echo, limits=limits)

    async with a_connection(address) as call:
        statuses = [await status(await call("127.0.0.8")) for _ in range(10)]

    assert statuses == [200] * 10


async def test_only_so_many_requests_are_worked_on_at_once(serve: Serve) -> None:
    go_on = asyncio.Event()

    async def wait(scope: Scope, receive: Receive, send: Send) -> None:
        await go_on.wait()
        await echo(scope, receive, send)

    address = await serve(wait, limits=ConnectionLimits(connections=3))
    async with a_connection(address) as call:
        first = [await call("127.0.0.1") for _ in range(3)]
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
async def test_a_flood_of_slow_clients_keeps_nobody_else_out(serve: Serve, sent: bytes) -> None:
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


async def test_who_takes_all_places_gives_up_one_of_its_own(serve: Serve) -> None:
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


async def test_a_stop_is_not_held_up_by_the_silent() -> None:
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


async def test_a_request_under_way_ends_before_the_stop() -> None:
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
    asyncio.get_running_loop().call_later(0.05, go_on.set)
    answer = await reader.read()
    await serving

    assert b" 200 " in answer
    writer.close()


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_sigterm_is_the_owners_and_ends_the_process_in_order(loop: str) -> None:
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


async def test_a_socket_handed_over_answers_without_delay(serve: Serve) -> None:
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


async def test_an_address_is_taken_as_soon_as_it_is_bound() -> None:
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


async def test_ten_thousand_broken_requests_cost_nothing_but_their_connection(
    serve: Serve, send_bytes: SendBytes
) -> None:
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

    async def ask() -> bytes:
        reader, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(broken())
        writer.write_eof()
        try:
            return await reader.read()
        except ConnectionResetError:
            return b""
        finally:
            writer.close()

    for _ in range(rounds // 100):
        answers = await asyncio.gather(*(ask() for _ in range(100)))
        assert not [answer for answer in answers if answer.startswith(b"HTTP/1.1 5")]

    assert not faults
    assert b"heard body" in await send_bytes(address, whole)
