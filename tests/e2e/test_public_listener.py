"""The public listener of the real service under attack: floods, guessed tokens, false hosts, broken requests."""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

from harness.raw_http import RawConnection, RawResponse, a_connection, http_request
from harness.running_service import Receiver, a_config, a_push_body, a_receiver, create_callback_url
from harness.waiting import wait_until

NO_KLING = "http://127.0.0.1:9"
HALF_A_HEAD = b"POST /callbacks/%s HTTP/1.1\r\nhost: localhost\r\nx-drip: "
FLOOD = [f"127.0.1.{number}" for number in range(1, 11)]
GUESSED_PATH = "/callbacks/a-guess-by-a-scanner"


@contextlib.asynccontextmanager
async def a_listener(folder: Path, *, more: str = "", public_url: str = "@PUBLIC@") -> AsyncIterator[Receiver]:
    """Run a receiver that never polls."""
    config = a_config(NO_KLING, more='[callbacks]\nverify = "never"\nmax_body = "4KiB"\n' + more, public_url=public_url)
    async with a_receiver(folder, config) as receiver:
        yield receiver


async def a_callback_path(receiver: Receiver) -> str:
    """Mint a callback URL. Return its path."""
    async with receiver.client() as client:
        _, url = await create_callback_url(client)
    return urlsplit(url).path


async def send_bytes(listener: str, sent: bytes) -> int:
    """Send bytes to a listener. Return the status of the answer, 0 for none."""
    parts = urlsplit(listener)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.write(sent)
    try:
        return int(((await reader.readline()).split() or [b"", b"0"])[1])
    except ConnectionResetError:
        return 0
    finally:
        writer.transport.abort()


async def test_slow_clients_do_not_stop_a_good_callback(tmp_path: Path) -> None:
    async with a_listener(tmp_path) as receiver:
        path = await a_callback_path(receiver)
        parts = urlsplit(receiver.public)
        dripping = []

        async def drip(source: str) -> None:
            _, writer = await asyncio.open_connection(parts.hostname, parts.port, local_addr=(source, 0))
            dripping.append(writer)
            writer.write(HALF_A_HEAD % b"x")

        await asyncio.gather(*(drip(source) for source in FLOOD * 60))
        answers = []
        for number in range(25):
            answers.append(await http_request("POST", receiver.public + path, a_push_body("processing", n=number)))
            await asyncio.gather(*(drip(source) for source in FLOOD))
        for writer in dripping:
            writer.transport.abort()

        assert [answer.status for answer in answers] == [200] * 25
        assert receiver.rows("SELECT count(*) FROM pushes") == [(25,)]


async def test_pipelined_requests_do_not_stop_a_good_callback(tmp_path: Path) -> None:
    flood = b"GET /x HTTP/1.1\r\nhost: localhost\r\n\r\n" * 7_000
    async with a_listener(tmp_path) as receiver:
        path = await a_callback_path(receiver)

        async def pour(listener: str) -> None:
            parts = urlsplit(listener)
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
            writer.write(flood)
            with contextlib.suppress(ConnectionError):
                await reader.read()
            writer.transport.abort()

        floods = [asyncio.ensure_future(pour(listener)) for listener in [receiver.public, receiver.admin] * 10]
        answers = [
            await http_request("POST", receiver.public + path, a_push_body("processing", n=number))
            for number in range(5)
        ]
        await asyncio.gather(*floods)

        assert [answer.status for answer in answers] == [200] * 5
        assert await receiver.stop() == 0
        assert sum(entry["requests"] for entry in receiver.log_entries("listener.closed")) < 500


async def test_trailers_are_refused_and_never_processed(tmp_path: Path) -> None:
    async with a_listener(tmp_path) as receiver:
        path = await a_callback_path(receiver)
        head = "POST {} HTTP/1.1\r\n{}: localhost\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\n"

        async def trailed(listener: str, to: str, *, host: str = "host", trailer: str = "x-sig: evil") -> int:
            return await send_bytes(listener, (head.format(to, host) + trailer + "\r\n\r\n").encode())

        assert await trailed(receiver.public, path) == 400
        assert await trailed(receiver.public, path, host="x", trailer="host: localhost") == 400
        assert await trailed(receiver.admin, "/api/tasks", trailer=f"authorization: Bearer {receiver.token}") == 400
        assert receiver.rows("SELECT count(*) FROM pushes") == [(0,)]


async def test_token_guessing_blocks_no_valid_callback(tmp_path: Path) -> None:
    async with a_listener(tmp_path) as receiver:
        path = await a_callback_path(receiver)
        async with a_connection(receiver.public) as connection:
            guesses = [await connection.request("POST", f"{GUESSED_PATH}-{number}", b"{}") for number in range(120)]

        with contextlib.closing(sqlite3.connect(tmp_path / "var" / "receiver.db", isolation_level=None)) as busy:
            busy.execute("BEGIN IMMEDIATE")
            good = asyncio.ensure_future(http_request("POST", receiver.public + path, a_push_body("processing")))
            during = [await http_request("POST", receiver.public + GUESSED_PATH, b"{}") for _ in range(10)]
            assert not good.done()
            busy.execute("ROLLBACK")

        assert (await good).status == 200
        assert {(answer.status, answer.body) for answer in [*guesses, *during]} == {(404, guesses[0].body)}
        assert {tuple(answer.headers) for answer in [*guesses, *during]} == {tuple(guesses[0].headers)}
        assert len(receiver.log_entries("caller.muted")) == 1
        assert len(receiver.log_entries("callback.refused")) < 100


async def test_only_the_public_host_and_local_hosts_are_answered(tmp_path: Path) -> None:
    async with a_listener(tmp_path, public_url="https://hooks.example.com/kling") as receiver:
        path = await a_callback_path(receiver)

        async def by(host: str, method: str = "POST", to: str = path.removeprefix("/kling")) -> int:
            body = a_push_body("processing") if method == "POST" else b""
            return (await http_request(method, receiver.public + to, body, {"host": host})).status

        assert [await by(host) for host in ("hooks.example.com", "127.0.0.1:8700", "localhost")] == [200, 200, 200]
        assert [await by(host) for host in ("attacker.example", "10.0.0.1")] == [421, 421]
        assert [await by(host, "GET", "/healthz") for host in ("attacker.example", "127.0.0.1")] == [421, 200]
        (first, *_) = receiver.log_entries("callback.refused")
        assert "[public] proxies" in first["reason"]


async def test_only_a_configured_proxy_can_set_the_client_address(tmp_path: Path) -> None:
    config = a_config(NO_KLING, public_url='https://hooks.example.com"\nproxies = ["127.0.0.8"]\n#"')
    async with a_receiver(tmp_path, config) as receiver:
        parts = urlsplit(receiver.public)

        async def guess_from(source: str, forwarded: str, host: str) -> RawResponse:
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port, local_addr=(source, 0))
            connection = RawConnection(reader, writer, {"host": host, "x-forwarded-for": forwarded})
            try:
                return await connection.request("POST", GUESSED_PATH, b"{}")
            finally:
                await connection.close()

        proxied = await guess_from("127.0.0.8", "203.0.113.9, 198.51.100.7", "any-name-of-an-upstream")
        direct = await guess_from("127.0.0.9", "203.0.113.9, 198.51.100.7", "hooks.example.com")

        assert (proxied.status, direct.status) == (404, 404)
        assert [entry["peer"] for entry in receiver.log_entries("callback.refused")] == ["198.51.100.7", "127.0.0.9"]


async def test_refused_requests_leave_no_token_in_the_log(tmp_path: Path) -> None:
    async with a_listener(tmp_path) as receiver:
        path = await a_callback_path(receiver)
        token = path.rpartition("/")[2]
        head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\n".encode()
        whole = head + b"content-length: 2\r\n\r\n{}"
        refused = {
            400: head + b"content-length: 3\r\n\r\n[1]",
            404: whole.replace(b" HTTP", b"/ HTTP"),
            405: whole.replace(b"POST", b"GET"),
            413: head + b"content-length: 9999\r\n\r\n{}",
            415: head + b"content-encoding: br\r\n" + b"content-length: 2\r\n\r\n{}",
            421: whole.replace(b"localhost", b"other.example"),
            431: head + b"x: " + b"y" * 20_000 + b"\r\n\r\n",
        }
        streamed = head + b"transfer-encoding: chunked\r\n\r\n" + (b"800\r\n" + b"x" * 2048 + b"\r\n") * 4
        broken = [head + b"\x00: x\r\n\r\n", head + b"transfer-encoding: chunked\r\n\r\nzz\r\n", b"\x16\x03\x01" + head]
        both = head + b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"

        too_slow = asyncio.ensure_future(send_bytes(receiver.public, HALF_A_HEAD % token.encode()))
        assert {status: await send_bytes(receiver.public, sent) for status, sent in refused.items()} == {
            status: status for status in refused
        }
        assert [await send_bytes(receiver.public, sent) for sent in (streamed, *broken, both)] == [
            413,
            400,
            400,
            400,
            400,
        ]
        for sent in (head + b"content-length: 9\r\n\r\nhalf", whole):
            parts = urlsplit(receiver.public)
            _, writer = await asyncio.open_connection(parts.hostname, parts.port)
            writer.write(sent)
            await writer.drain()
            writer.transport.abort()
        await wait_until(lambda: bool(receiver.log_entries("callback.abandoned")))
        assert await too_slow == 408

        assert await send_bytes(receiver.public, whole) == 200
        assert await receiver.stop() == 0
        assert token not in receiver.log()
        assert "connection.refused" in receiver.log()
