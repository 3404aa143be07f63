"""No log line contains a callback's token, for any outcome, even before secrets are redacted."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import timedelta

import pytest
import structlog
from harness.logs import capture_logs
from harness.waiting import let_loop_run, wait_until
from harness.web_app import Serve

from receiver.domain.bounded_dict import BoundedDict
from receiver.domain.clock import token_hash
from receiver.domain.errors import MalformedBody, StoreBroken, StoreUnavailable
from receiver.settings import Address
from receiver.tracking.parsed_push import Callback
from receiver.web.callbacks import public_app
from receiver.web.server.allowed_hosts import AllowedHosts
from receiver.web.server.connections import ConnectionLimits

TOKEN = "the-canary-Zz8-token"
POST = f"POST /callbacks/{TOKEN} HTTP/1.1\r\nhost: hooks.example.com\r\n".encode()
SHORT_LIMITS = ConnectionLimits(
    head=timedelta(seconds=0.2), request=timedelta(seconds=0.4), idle=timedelta(seconds=0.3)
)
ALLOWED_HOSTS = AllowedHosts(Address("127.0.0.1", 8700), {"hooks.example.com"})


class FakeInbox:
    """Handles every callback as set."""

    def __init__(self, outcome: Callable[[], Awaitable[bool]] | Exception | bool = False) -> None:
        self.outcome = outcome
        self.is_reached = asyncio.Event()

    async def accept_callback(self, *_: object, **__: object) -> bool:
        self.is_reached.set()
        match self.outcome:
            case bool():
                return self.outcome
            case Exception():
                raise self.outcome
            case _:
                return await self.outcome()

    async def accept_callbacks(self, callbacks: Sequence[Callback]) -> Sequence[bool | BaseException]:
        return await asyncio.gather(*(self.accept_callback() for _ in callbacks), return_exceptions=True)

    async def has_token(self, *_: object, **__: object) -> bool:
        return self.outcome is not False


class CapturedLogs:
    """All log lines of a test: the service's own before rendering, and those of libraries."""

    def __init__(self, lines: list[structlog.typing.EventDict], caplog: pytest.LogCaptureFixture) -> None:
        self.lines = lines
        self._caplog = caplog

    @property
    def events(self) -> list[str]:
        return [line["event"] for line in self.lines]

    def text(self) -> str:
        return repr(self.lines) + "".join(f"{each.getMessage()} {each.exc_text}" for each in self._caplog.records)


@contextlib.contextmanager
def capturing_logs(caplog: pytest.LogCaptureFixture) -> Iterator[CapturedLogs]:
    """Capture all log lines, from the debug level on."""
    asyncio.get_running_loop().set_debug(True)
    with caplog.at_level(logging.DEBUG), capture_logs() as lines:
        yield CapturedLogs(lines, caplog)


REJECTIONS = [
    pytest.param(POST + b"content-length: 2\r\n\r\n{}", False, 404, id="unknown"),
    pytest.param(POST.replace(b" HTTP", b"/ HTTP") + b"content-length: 0\r\n\r\n", False, 404, id="another path"),
    pytest.param(POST + b"content-length: 2\r\n\r\n{}", MalformedBody("It is no JSON."), 400, id="malformed JSON"),
    pytest.param(POST + b"content-length: 2\r\n\r\n{}", StoreUnavailable("It is full."), 503, id="a full store"),
    pytest.param(POST + b"content-length: 2\r\n\r\n{}", StoreBroken("It broke."), 503, id="a broken store"),
    pytest.param(POST + b"content-length: 2\r\n\r\n{}", KeyError(TOKEN), 500, id="an error that quotes the token"),
    pytest.param(POST + b"content-length: 2000\r\n\r\n{}", True, 413, id="too large"),
    pytest.param(
        POST + b"transfer-encoding: chunked\r\n\r\n" + (b"258\r\n" + b"x" * 600 + b"\r\n") * 3, True, 413, id="a stream"
    ),
    pytest.param(POST + b"content-length: 2\r\ncontent-encoding: br\r\n\r\n{}", True, 415, id="compressed"),
    pytest.param(POST.replace(b"POST", b"GET") + b"\r\n", True, 405, id="another method"),
    pytest.param(POST.replace(b"hooks", b"other") + b"content-length: 2\r\n\r\n{}", True, 421, id="another host"),
    pytest.param(POST + b"x: " + b"y" * 20_000 + b"\r\n\r\n", True, 431, id="a large head"),
    pytest.param(POST + b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n{}", True, 400, id="two framings"),
    pytest.param(POST + b"\x00\x01: x\r\n\r\n", True, 400, id="no HTTP"),
    pytest.param(POST + b"transfer-encoding: chunked\r\n\r\nzz\r\n", True, 400, id="no chunk"),
    pytest.param(POST + b"content-length: 9\r\n\r\nhalf", True, 408, id="half a body"),
    pytest.param(POST + b"x-half: ", True, 408, id="half a head"),
]


@pytest.mark.parametrize("is_known", [False, True], ids=["", "known"])
@pytest.mark.parametrize(("sent", "does", "status"), REJECTIONS)
async def test_a_refused_request_leaves_no_token_in_the_log(
    serve: Serve,
    caplog: pytest.LogCaptureFixture,
    *,
    sent: bytes,
    does: Exception | bool,
    status: int,
    is_known: bool,
) -> None:
    known: BoundedDict[bytes, None] = BoundedDict(1)
    if is_known:
        known[token_hash(TOKEN)] = None
    with capturing_logs(caplog) as logs:
        address = await serve(
            public_app(FakeInbox(does), max_body=1000, allowed_hosts=ALLOWED_HOSTS, known_tokens=known),
            limits=SHORT_LIMITS,
        )
        reader, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(sent)
        line = await reader.readline()
        writer.transport.abort()

    assert line.startswith(b"HTTP/1.1 %d " % status)
    assert {"callback.refused", "callback.failed", "connection.refused", "request.refused"} & set(logs.events)
    assert TOKEN not in logs.text()


async def test_a_disconnect_during_a_request_leaves_no_token_in_the_log(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    with capturing_logs(caplog) as logs:
        address = await serve(public_app(FakeInbox(True), max_body=1000))
        _, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(POST + b"content-length: 9\r\n\r\nhalf")
        await writer.drain()
        writer.transport.abort()
        await wait_until(lambda: "callback.abandoned" in logs.events)

    assert TOKEN not in logs.text()


@pytest.mark.parametrize("ending", [True, RuntimeError("a bug")], ids=["taken", "failed"])
async def test_a_disconnect_before_the_answer_leaves_no_token_in_the_log(
    serve: Serve,
    caplog: pytest.LogCaptureFixture,
    ending: Exception | bool,
) -> None:
    go_on, ended = asyncio.Event(), asyncio.Event()

    async def wait() -> bool:
        await go_on.wait()
        ended.set()
        if isinstance(ending, Exception):
            raise ending
        return True

    with capturing_logs(caplog) as logs:
        inbox = FakeInbox(wait)
        address = await serve(public_app(inbox, max_body=1000))
        _, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(POST + b"content-length: 2\r\n\r\n{}")
        await inbox.is_reached.wait()
        writer.transport.abort()
        go_on.set()
        await ended.wait()
        await let_loop_run()

    assert TOKEN not in logs.text()
