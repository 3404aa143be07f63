"""The public face, over real sockets."""

import asyncio
import json
from collections.abc import Sequence

import httpx2 as httpx
import pytest
import structlog
from edge import Serve
from support import until

from receiver.errors import StoreBroken, StoreUnavailable, Unreadable
from receiver.settings import Address
from receiver.web.callbacks import public_app

TOKEN = "kept-to-ourselves-5f2a"
MAX_BODY = 1000


class Recorder:
    """An inbox that knows one token and keeps what it was given, or fails as told."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.received: list[tuple[Sequence[tuple[str, str]], bytes]] = []
        self._failure = failure

    async def receive(self, token: str, headers: Sequence[tuple[str, str]], body: bytes) -> bool:
        if self._failure is not None:
            raise self._failure
        if token != TOKEN:
            return False
        self.received.append((headers, body))
        return True


@pytest.fixture
def inbox() -> Recorder:
    return Recorder()


async def post(address: Address, path: str, content: bytes | None = b"{}", **headers: str) -> httpx.Response:
    async with httpx.AsyncClient(base_url=f"http://{address}", trust_env=False) as client:
        return await client.post(path, content=content, headers={k.replace("_", "-"): v for k, v in headers.items()})


async def test_a_callback_is_answered_once_it_is_taken_in(serve: Serve, inbox: Recorder) -> None:
    address = await serve(public_app(inbox, max_body=MAX_BODY))

    answer = await post(address, f"/callbacks/{TOKEN}", b'{"task_id": "1"}', webhook_id="m1")

    assert (answer.status_code, answer.content) == (200, b'{"ok":true}')
    headers, body = inbox.received[0]
    assert body == b'{"task_id": "1"}'
    assert ("webhook-id", "m1") in headers


async def test_all_that_is_not_there_gets_the_same_404(serve: Serve, inbox: Recorder) -> None:
    address = await serve(public_app(inbox, max_body=MAX_BODY))

    paths = ["/callbacks/unknown", "/callbacks/", "/callbacks", "/", f"/callbacks/{TOKEN}/", "/metrics", "/api/tasks"]
    answers = [await post(address, path) for path in paths]

    seen = {(answer.status_code, answer.headers["content-type"], answer.content) for answer in answers}
    assert len(seen) == 1
    assert answers[0].status_code == 404
    assert answers[0].json()["code"] == "not_found"


@pytest.mark.parametrize("path", ["/callbacks/unknown", f"/callbacks/{TOKEN}"])
async def test_only_post_is_taken_and_says_nothing_of_the_token(serve: Serve, inbox: Recorder, path: str) -> None:
    address = await serve(public_app(inbox, max_body=MAX_BODY))

    answer = await _get(address, path)

    assert answer.status_code == 405
    assert answer.headers["allow"] == "POST"
    assert answer.headers["content-type"] == "application/problem+json"


async def _get(address: Address, path: str) -> httpx.Response:
    async with httpx.AsyncClient(base_url=f"http://{address}", trust_env=False) as client:
        return await client.get(path)


async def test_health_is_told_to_anybody(serve: Serve, inbox: Recorder) -> None:
    address = await serve(public_app(inbox, max_body=MAX_BODY))

    assert (await _get(address, "/healthz")).json() == {"ok": True}
    assert (await post(address, "/healthz")).headers["allow"] == "GET, HEAD"


@pytest.mark.parametrize(
    ("failure", "status", "code"),
    [
        (Unreadable("The body is no JSON."), 400, "unreadable"),
        (StoreUnavailable("The disk is nearly full."), 503, "store_unavailable"),
        (StoreBroken("The disk is broken."), 503, "store_broken"),
        (RuntimeError("a bug"), 500, "internal"),
    ],
)
async def test_what_is_not_kept_is_not_acknowledged(serve: Serve, failure: Exception, status: int, code: str) -> None:
    address = await serve(public_app(Recorder(failure), max_body=MAX_BODY))

    answer = await post(address, f"/callbacks/{TOKEN}")

    assert answer.status_code == status
    assert answer.json()["code"] == code
    assert answer.headers.get("retry-after") == ("5" if status == 503 else None)


async def test_the_token_is_in_no_log_line(serve: Serve, inbox: Recorder, capsys: pytest.CaptureFixture[str]) -> None:
    for failing in (inbox, Recorder(StoreUnavailable("full")), Recorder(RuntimeError("a bug"))):
        address = await serve(public_app(failing, max_body=MAX_BODY))
        await post(address, f"/callbacks/{TOKEN}")
        await post(address, f"/callbacks/{TOKEN}", b"x" * (MAX_BODY + 1))

    printed = capsys.readouterr()
    assert "callback.failed" in printed.out
    assert TOKEN not in printed.out + printed.err


@pytest.mark.parametrize("size", [MAX_BODY, MAX_BODY + 1])
async def test_a_body_is_at_most_so_large(serve: Serve, inbox: Recorder, size: int) -> None:
    address = await serve(public_app(inbox, max_body=MAX_BODY))

    answer = await post(address, f"/callbacks/{TOKEN}", b"x" * size)

    assert answer.status_code == (200 if size <= MAX_BODY else 413)
    assert len(inbox.received) == (size <= MAX_BODY)


async def test_a_declared_size_is_believed_before_a_byte_of_it_came(serve: Serve, inbox: Recorder) -> None:
    address = await serve(public_app(inbox, max_body=MAX_BODY))
    reader, writer = await asyncio.open_connection(address.host, address.port)

    writer.write(b"POST /callbacks/t HTTP/1.1\r\nhost: h\r\ncontent-length: 100000\r\n\r\n")
    line = await reader.readline()

    assert b" 413 " in line
    writer.close()


async def test_a_stream_is_cut_where_it_passes_the_limit(serve: Serve, inbox: Recorder) -> None:
    address = await serve(public_app(inbox, max_body=MAX_BODY))
    reader, writer = await asyncio.open_connection(address.host, address.port)
    writer.write(b"POST /callbacks/%s HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n" % TOKEN.encode())

    for _ in range(3):
        writer.write(b"1f4\r\n" + b"x" * 500 + b"\r\n")
    line = await reader.readline()

    assert b" 413 " in line
    assert not inbox.received
    writer.close()


async def test_a_compressed_body_is_refused(serve: Serve, inbox: Recorder) -> None:
    address = await serve(public_app(inbox, max_body=MAX_BODY))

    answer = await post(address, f"/callbacks/{TOKEN}", content_encoding="gzip")

    assert answer.status_code == 415
    assert answer.headers["accept-encoding"] == "identity"
    assert not inbox.received


async def test_who_goes_away_in_the_middle_leaves_nothing_behind(serve: Serve, inbox: Recorder) -> None:
    address = await serve(public_app(inbox, max_body=MAX_BODY))
    with structlog.testing.capture_logs() as logs:
        _, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(b"POST /callbacks/%s HTTP/1.1\r\nhost: h\r\ncontent-length: 9\r\n\r\nhalf" % TOKEN.encode())
        await writer.drain()
        writer.close()
        await until(lambda: bool(logs))

    assert not inbox.received
    assert logs == [{"event": "callback.abandoned", "log_level": "info"}]


async def test_a_problem_is_told_in_the_standard_form(serve: Serve, inbox: Recorder) -> None:
    address = await serve(public_app(inbox, max_body=MAX_BODY))

    answer = await post(address, "/callbacks/unknown")

    assert answer.headers["content-type"] == "application/problem+json"
    assert json.loads(answer.content) == {
        "type": "about:blank",
        "title": "Not Found",
        "status": 404,
        "detail": "There is nothing here.",
        "code": "not_found",
    }
