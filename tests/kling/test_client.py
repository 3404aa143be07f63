import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from email.utils import format_datetime
from typing import TypeAlias

import jwt
import pytest
import structlog
from harness.clock import FakeClock
from harness.ports import free_port

from receiver.domain.errors import (
    AuthenticationFailed,
    InvalidParameters,
    InvalidRequest,
    KlingError,
    KlingRefusal,
    KlingUncertain,
    KlingUnreachable,
    ServerError,
    SlotsFull,
    TokenRejected,
    UnknownResource,
)
from receiver.domain.model import Json, Secret, TaskState
from receiver.kling.client import KlingClient, PassThrough
from receiver.net.http_client import HttpClient, StreamedBody
from receiver.settings import KlingSettings

ENDPOINT = "images/multi-image2image"
NEW = "text-to-video/kling-3.0-turbo"
KEY = "sk-canary-4711"
SECRET_KEY = "secret-canary-0815"
CREATED = {
    "code": 0,
    "message": "SUCCEED",
    "request_id": "r-1",
    "data": {"task_id": "867283741759111202", "task_status": "submitted", "task_info": {"external_task_id": "tsk_1"}},
}


@dataclass(frozen=True, kw_only=True)
class Request:
    """What reached the server."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, kw_only=True)
class ScriptedAnswer:
    """What the server answers; ``raw`` is sent before hanging up, and may be empty."""

    document: object = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    raw: bytes | None = None
    never_answers: bool = False


Script: TypeAlias = Callable[[Request], ScriptedAnswer]


@dataclass(kw_only=True)
class ScriptedServer:
    """A Kling on loopback that answers from a script and keeps what it was asked."""

    script: Script
    requests: list[Request] = field(default_factory=list)
    url: str = ""
    connection_tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talk = asyncio.current_task()
        assert talk is not None
        self.connection_tasks.add(talk)
        try:
            while head := await _head(reader):
                line, *lines = head.decode("latin-1").split("\r\n")
                method, target, _ = line.split(" ")
                pairs = (entry.split(": ", 1) for entry in lines if entry)
                headers = {name.lower(): value for name, value in pairs}
                body = await _body(reader, headers)
                request = Request(method=method, target=target, headers=headers, body=body)
                self.requests.append(request)
                says = self.script(request)
                if says.never_answers:
                    await reader.read()
                    return
                if says.raw == b"":
                    return
                writer.write(says.raw or _encode(says))
                await writer.drain()
                if says.raw:
                    return
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


async def _head(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return b""


async def _body(reader: asyncio.StreamReader, headers: Mapping[str, str]) -> bytes:
    if "transfer-encoding" not in headers:
        return await reader.readexactly(int(headers.get("content-length", 0)))
    body = b""
    while size := int(await reader.readline(), 16):
        body += await reader.readexactly(size)
        await reader.readline()
    await reader.readline()
    return body


def _encode(says: ScriptedAnswer) -> bytes:
    body = says.document if isinstance(says.document, bytes) else json.dumps(says.document).encode()
    headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), **says.headers}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {says.status} Whatever\r\n{lines}\r\n".encode() + body


def _url(listening: asyncio.Server) -> str:
    port = listening.sockets[0].getsockname()[1]
    return f"http://127.0.0.1:{port}"


@contextlib.asynccontextmanager
async def a_scripted_server(script: Script | ScriptedAnswer) -> AsyncIterator[ScriptedServer]:
    server = ScriptedServer(script=script if callable(script) else lambda _: script)
    listening = await asyncio.start_server(server, "127.0.0.1", 0)
    server.url = _url(listening)
    try:
        yield server
    finally:
        await asyncio.gather(*server.connection_tasks)
        listening.close()
        await listening.wait_closed()


@contextlib.asynccontextmanager
async def a_client(
    url: str, *, clock: FakeClock | None = None, key: str | None = KEY, pair: bool = False, seconds: float = 5
) -> AsyncIterator[KlingClient]:
    settings = KlingSettings.model_construct(
        base_url=url,
        api_key=Secret(key) if key and not pair else None,
        access_key=Secret("access-canary") if pair else None,
        secret_key=Secret(SECRET_KEY) if pair else None,
        timeout=timedelta(seconds=seconds),
    )
    http_client = HttpClient(user_agent="kling-receiver/test")
    try:
        yield KlingClient(settings, http_client=http_client, clock=clock or FakeClock())
    finally:
        await http_client.aclose()


async def test_a_create_sends_the_body_as_it_is_under_our_key() -> None:
    content = b'{ "prompt" : "\xe4\xbd\xa0", "aspect_ratio": " 2:3" }'
    async with a_scripted_server(ScriptedAnswer(document=CREATED)) as server, a_client(server.url) as kling:
        answer = await kling.create(ENDPOINT, content)

    (request,) = server.requests
    assert (request.method, request.target) == ("POST", "/v1/images/multi-image2image")
    assert request.body == content
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.headers["content-type"] == "application/json"
    assert answer.error is None
    assert answer.report is not None
    assert (answer.report.kling_id, answer.report.state) == ("867283741759111202", TaskState.SUBMITTED)
    assert json.loads(answer.body) == CREATED


@pytest.mark.parametrize(
    ("base", "endpoint", "target"),
    [
        ("/kling", ENDPOINT, "/kling/v1/images/multi-image2image"),
        ("/kling/", ENDPOINT, "/kling/v1/images/multi-image2image"),
        ("/kling/v1", ENDPOINT, "/kling/v1/images/multi-image2image"),
        ("/kling", "/v1/images/generations", "/kling/v1/images/generations"),
        ("", NEW, "/text-to-video/kling-3.0-turbo"),
        ("/kling", NEW, "/kling/text-to-video/kling-3.0-turbo"),
        ("", "images/unheard-of", "/v1/images/unheard-of"),
        ("", "odd/endpoint here", "/v1/odd/endpoint%20here"),
    ],
)
async def test_paths_are_joined_to_a_base_with_or_without_a_prefix(base: str, endpoint: str, target: str) -> None:
    async with a_scripted_server(ScriptedAnswer(document=CREATED)) as server, a_client(server.url + base) as kling:
        await kling.create(endpoint, b"{}")

    assert [request.target for request in server.requests] == [target]


@pytest.mark.parametrize(
    ("task_id", "segment"),
    [
        ("867283741759111202", "867283741759111202"),
        ("a/b?c#d e", "a%2Fb%3Fc%23d%20e"),
        ("..", "%2E%2E"),
        ("ü", "%C3%BC"),
    ],
)
async def test_a_query_names_the_task_as_one_segment_of_the_path(task_id: str, segment: str) -> None:
    done = {"code": 0, "data": {"task_id": "867283741759111202", "task_status": "succeed"}}
    async with a_scripted_server(ScriptedAnswer(document=done)) as server, a_client(server.url) as kling:
        answer = await kling.query(ENDPOINT, task_id)

    assert [(request.method, request.target) for request in server.requests] == [
        ("GET", f"/v1/images/multi-image2image/{segment}")
    ]
    assert answer.report is not None
    assert answer.report.state is TaskState.SUCCEED


async def test_a_task_of_the_new_generation_is_asked_for_in_a_list_by_either_id() -> None:
    def script(request: Request) -> ScriptedAnswer:
        found = [{"id": "8", "external_id": "m 1", "status": "processing"}, {"id": "9", "status": "failed"}]
        return ScriptedAnswer(
            document={"code": 0, "data": found if "external_task_ids=m%201" in request.target else []}
        )

    async with a_scripted_server(script) as server, a_client(server.url) as kling:
        answer = await kling.query(NEW, "m 1")
        found = await kling.find_by_external_id(NEW, "m 1")

    assert [request.target for request in server.requests] == [
        "/tasks?task_ids=m%201",
        "/tasks?external_task_ids=m%201",
        "/tasks?external_task_ids=m%201",
    ]
    for said in (answer, found):
        assert said is not None
        assert said.report is not None
        assert (said.report.kling_id, said.report.state) == ("8", TaskState.PROCESSING)


async def test_several_tasks_are_asked_for_in_one_call_and_each_is_told_of_in_kling_s_own_bytes() -> None:
    one = '{"id": "8",  "status":"processing", "n": 1E3}'
    other = '{"status": "succeeded", "id": "9", "outputs": [{"type": "video", "url": "https://a.example/9.mp4"}]}'
    listed = f'{{"code": 0, "data": [ {one}, {other} , null, {{"id": "of another", "status": "failed"}}], "x": []}}'
    raw = f"HTTP/1.1 200 OK\r\ncontent-length: {len(listed)}\r\n\r\n{listed}".encode()

    async with a_scripted_server(ScriptedAnswer(raw=raw)) as server, a_client(server.url) as kling:
        told = await kling.query_batch(NEW, ["8", "9", "10"])

    assert [request.target for request in server.requests] == ["/tasks?task_ids=8,9,10"]
    assert {kling_id: answer.body.decode() for kling_id, answer in told.items()} == {"8": one, "9": other}
    states = {kling_id: answer.report and answer.report.state for kling_id, answer in told.items()}
    assert states == {"8": TaskState.PROCESSING, "9": TaskState.SUCCEED}


@pytest.mark.parametrize(
    "document", [{"code": 0, "data": {}}, {"code": 0, "data": []}, {"code": 0}, {"data": [1, "a"]}]
)
async def test_an_answer_about_several_that_tells_of_none_leaves_all_out(document: Json) -> None:
    async with a_scripted_server(ScriptedAnswer(document=document)) as server, a_client(server.url) as kling:
        assert await kling.query_batch(NEW, ["8", "9"]) == {}


@pytest.mark.parametrize(
    ("says", "error"),
    [
        (ScriptedAnswer(document={"code": 1201, "message": "bad id"}, status=400), InvalidParameters),
        (ScriptedAnswer(document={"code": 5001}, status=503), ServerError),
        (ScriptedAnswer(status=404), UnknownResource),
        (ScriptedAnswer(raw=b""), KlingUncertain),
    ],
)
async def test_a_question_about_several_that_is_not_answered_raises(
    says: ScriptedAnswer, error: type[KlingError]
) -> None:
    async with a_scripted_server(says) as server, a_client(server.url) as kling:
        with pytest.raises(error):
            await kling.query_batch(NEW, ["8", "9"])

        assert len(server.requests) == 1


@pytest.mark.parametrize(
    "says",
    [
        ScriptedAnswer(document={"code": 1203, "message": "no such task"}, status=404),
        ScriptedAnswer(document={"code": 0, "message": "SUCCEED", "data": None}),
        ScriptedAnswer(document={"code": 0, "data": {}}),
        ScriptedAnswer(document={"code": 0, "data": []}),
    ],
)
async def test_a_task_that_kling_does_not_know_is_an_unknown_resource_and_is_not_found(says: ScriptedAnswer) -> None:
    async with a_scripted_server(says) as server, a_client(server.url) as kling:
        answer = await kling.query(ENDPOINT, "1")
        found = await kling.find_by_external_id(ENDPOINT, "tsk_1")

    assert isinstance(answer.error, UnknownResource)
    assert found is None


@pytest.mark.parametrize("document", [b"<html>", {"detail": "Not Found"}])
async def test_a_404_that_is_not_klings_own_leaves_it_open_whether_there_is_a_task(
    document: bytes | dict[str, object],
) -> None:
    async with (
        a_scripted_server(ScriptedAnswer(document=document, status=404)) as server,
        a_client(server.url) as kling,
    ):
        with pytest.raises(UnknownResource):
            await kling.find_by_external_id(ENDPOINT, "tsk_1")


async def test_a_bad_parameter_that_speaks_of_a_task_not_found_is_not_found() -> None:
    says = ScriptedAnswer(document={"code": 1201, "message": "Task not found"}, status=400)
    async with a_scripted_server(says) as server, a_client(server.url) as kling:
        assert await kling.find_by_external_id(ENDPOINT, "a b:c") is None

    assert server.requests[0].target == "/v1/images/multi-image2image/a%20b%3Ac"


@pytest.mark.parametrize("name", ["a/b", "a\\b", "50%2F", "a;b", ".."])
async def test_that_there_is_none_is_not_believed_of_an_id_that_may_have_been_read_as_another(name: str) -> None:
    says = ScriptedAnswer(document={"code": 1203, "message": "not found"}, status=404)
    async with a_scripted_server(says) as server, a_client(server.url) as kling:
        with pytest.raises(UnknownResource):
            await kling.find_by_external_id(ENDPOINT, name)

    says = ScriptedAnswer(document={"code": 0, "data": []})
    async with a_scripted_server(says) as server, a_client(server.url) as kling:
        with pytest.raises(UnknownResource):
            await kling.find_by_external_id(NEW, "a,b")


@pytest.mark.parametrize(
    ("says", "error"),
    [
        (ScriptedAnswer(document={"code": 1201, "message": "bad id"}, status=400), KlingRefusal),
        (ScriptedAnswer(document={"code": 5000}, status=500), ServerError),
        (ScriptedAnswer(document=b"<html>"), ServerError),
        (ScriptedAnswer(document={"code": 1002}, status=401), AuthenticationFailed),
        (
            ScriptedAnswer(document={"code": 0, "data": {"task_id": "2", "task_info": {"external_task_id": "b"}}}),
            KlingUncertain,
        ),
        (ScriptedAnswer(raw=b""), KlingUncertain),
    ],
)
async def test_a_look_up_that_leaves_it_open_raises(says: ScriptedAnswer, error: type[KlingError]) -> None:
    async with a_scripted_server(says) as server, a_client(server.url) as kling:
        with pytest.raises(error):
            await kling.find_by_external_id(ENDPOINT, "a")


async def test_an_answer_with_an_error_code_comes_back_with_the_error() -> None:
    says = ScriptedAnswer(
        document={"code": 1303, "message": "full", "request_id": "r"}, status=429, headers={"Retry-After": "3"}
    )
    async with a_scripted_server(says) as server, a_client(server.url) as kling:
        answer = await kling.create(ENDPOINT, b"{}")

    assert answer.status == 429
    assert json.loads(answer.body)["code"] == 1303
    assert answer.headers["retry-after"] == "3"
    assert answer.report is None
    assert isinstance(answer.error, SlotsFull)
    assert answer.error.retry_after == timedelta(seconds=3)


async def test_a_retry_after_date_is_measured_by_our_clock() -> None:
    clock = FakeClock()
    at = format_datetime(clock.now() + timedelta(minutes=2), usegmt=True)
    says = ScriptedAnswer(document={"code": 1302}, status=429, headers={"Retry-After": at})
    async with a_scripted_server(says) as server, a_client(server.url, clock=clock) as kling:
        answer = await kling.create(ENDPOINT, b"{}")

    assert isinstance(answer.error, KlingRefusal)
    assert answer.error.retry_after == timedelta(minutes=2)


@pytest.mark.parametrize(
    "says",
    [
        ScriptedAnswer(document={"code": 5000}, status=500),
        ScriptedAnswer(document={"code": 5002}, status=504),
        ScriptedAnswer(document=b"Bad gateway", status=502),
        ScriptedAnswer(document=b"<html>Welcome</html>"),
    ],
)
async def test_a_create_whose_answer_is_not_clear_is_uncertain(says: ScriptedAnswer) -> None:
    async with a_scripted_server(says) as server, a_client(server.url) as kling:
        answer = await kling.create(ENDPOINT, b"{}")

    assert isinstance(answer.error, KlingUncertain)
    assert answer.status == says.status
    assert len(server.requests) == 1


@pytest.mark.parametrize("raw", [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{", b"SSH-2.0-hello\r\n\r\n"])
async def test_a_connection_that_breaks_after_the_request_is_uncertain_and_the_request_is_not_repeated(
    raw: bytes,
) -> None:
    async with a_scripted_server(ScriptedAnswer(raw=raw)) as server, a_client(server.url) as kling:
        with pytest.raises(KlingUncertain) as caught:
            await kling.create(ENDPOINT, b"{}")

    assert len(server.requests) == 1
    assert "127.0.0.1" in caught.value.message


async def test_a_server_that_never_answers_is_uncertain_when_the_time_is_over() -> None:
    async with (
        a_scripted_server(ScriptedAnswer(never_answers=True)) as server,
        a_client(server.url, seconds=0.2) as kling,
    ):
        with pytest.raises(KlingUncertain):
            await kling.create(ENDPOINT, b"{}")


async def test_a_server_that_is_not_there_is_unreachable() -> None:
    async with a_client(f"http://127.0.0.1:{free_port()}") as kling:
        with pytest.raises(KlingUnreachable, match="Kling cannot be reached"):
            await kling.create(ENDPOINT, b"{}")
        with pytest.raises(KlingUnreachable):
            await kling.query(ENDPOINT, "1")
        with pytest.raises(KlingUnreachable):
            await forward(kling, "GET", "v1/images/generations")


def _token(request: Request) -> Json:
    scheme, _, token = request.headers["authorization"].partition(" ")
    assert scheme == "Bearer"
    claims: Json = jwt.decode(
        token, SECRET_KEY.encode(), algorithms=["HS256"], options={"verify_exp": False, "verify_nbf": False}
    )
    return {"header": jwt.get_unverified_header(token), "claims": claims}


@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
async def test_a_pair_of_keys_signs_a_token_that_is_kept_until_shortly_before_its_end() -> None:
    clock = FakeClock()
    began = int(clock.now().timestamp())
    async with (
        a_scripted_server(ScriptedAnswer(document=CREATED)) as server,
        a_client(server.url, clock=clock, pair=True) as kling,
    ):
        for wait in (0, 1700, 60):
            clock.advance(timedelta(seconds=wait))
            await kling.create(ENDPOINT, b"{}")

    first, kept, renewed = (_token(request) for request in server.requests)
    assert first["header"] == {"alg": "HS256", "typ": "JWT"}
    assert first["claims"] == {"iss": "access-canary", "exp": began + 1800, "nbf": began - 5}
    assert kept == first
    assert renewed["claims"]["exp"] == began + 1760 + 1800


@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
@pytest.mark.parametrize("code", [1003, 1004])
async def test_a_token_that_is_not_taken_is_signed_anew_once(code: int) -> None:
    clock = FakeClock()

    def script(_: Request) -> ScriptedAnswer:
        clock.advance(timedelta(seconds=1))
        return ScriptedAnswer(document={"code": code, "message": "token"}, status=401)

    async with a_scripted_server(script) as server, a_client(server.url, clock=clock, pair=True) as kling:
        answer = await kling.create(ENDPOINT, b'{"n": 1}')

    assert isinstance(answer.error, TokenRejected)
    first, second = server.requests
    assert first.body == second.body == b'{"n": 1}'
    assert _token(second)["claims"]["exp"] == _token(first)["claims"]["exp"] + 1


@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
async def test_a_create_that_is_signed_anew_keeps_what_its_client_sent_with_it() -> None:
    clock = FakeClock()

    def script(_: Request) -> ScriptedAnswer:
        clock.advance(timedelta(seconds=1))
        return (
            ScriptedAnswer(document=CREATED)
            if len(server.requests) > 1
            else ScriptedAnswer(document={"code": 1004}, status=401)
        )

    beside = PassThrough(query="region=eu&x=%20 y", headers={"Idempotency-Key": "order-17", "X-Kling-Project": "ads"})
    async with a_scripted_server(script) as server, a_client(server.url, clock=clock, pair=True) as kling:
        answer = await kling.create(ENDPOINT, b"{}", pass_through=beside)

    assert answer.error is None
    first, second = server.requests
    assert first.headers["authorization"] != second.headers["authorization"]
    for request in (first, second):
        assert request.target == "/v1/images/multi-image2image?region=eu&x=%20%20y"
        assert request.headers["idempotency-key"] == "order-17"
        assert request.headers["x-kling-project"] == "ads"


@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
async def test_a_token_signed_anew_is_used_from_then_on() -> None:
    clock = FakeClock()

    def script(_: Request) -> ScriptedAnswer:
        clock.advance(timedelta(seconds=1))
        return (
            ScriptedAnswer(document=CREATED)
            if len(server.requests) > 1
            else ScriptedAnswer(document={"code": 1004}, status=401)
        )

    async with a_scripted_server(script) as server, a_client(server.url, clock=clock, pair=True) as kling:
        first = await kling.create(ENDPOINT, b"{}")
        await kling.create(ENDPOINT, b"{}")

    assert first.error is None
    assert len(server.requests) == 3
    assert server.requests[1].headers["authorization"] == server.requests[2].headers["authorization"]


async def test_an_api_key_cannot_be_signed_anew() -> None:
    async with (
        a_scripted_server(ScriptedAnswer(document={"code": 1004}, status=401)) as server,
        a_client(server.url) as kling,
    ):
        answer = await kling.create(ENDPOINT, b"{}")

    assert isinstance(answer.error, TokenRejected)
    assert len(server.requests) == 1


async def test_without_any_key_none_is_sent() -> None:
    async with a_scripted_server(ScriptedAnswer(document=CREATED)) as server, a_client(server.url, key=None) as kling:
        await kling.create(ENDPOINT, b"{}")

    assert "authorization" not in server.requests[0].headers


@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
@pytest.mark.parametrize("pair", [False, True])
async def test_no_key_is_shown_though_the_server_quotes_it(pair: bool) -> None:
    def script(request: Request) -> ScriptedAnswer:
        quoted = f"bad {request.headers['authorization']} {KEY} {SECRET_KEY}"
        return ScriptedAnswer(document={"code": 1002, "message": quoted}, status=401)

    async with a_scripted_server(script) as server, a_client(server.url, pair=pair) as kling:
        with structlog.testing.capture_logs() as logs:
            answer = await kling.create(ENDPOINT, b"{}")

    shown = f"{answer!r} {answer.error} {answer.error!r} {kling!r} {vars(kling)} {logs}"
    token = server.requests[0].headers["authorization"].removeprefix("Bearer ")
    assert token not in shown
    assert (SECRET_KEY if pair else KEY) not in shown
    assert "***" in shown


async def forward(
    kling: KlingClient,
    method: str,
    path: str,
    *,
    query: str = "",
    content: bytes | StreamedBody = b"",
    headers: Mapping[str, str] | None = None,
) -> tuple[int, Mapping[str, str], bytes]:
    given: list[tuple[int, Mapping[str, str], bytes]] = []

    async def give(status: int, answered: Mapping[str, str], pieces: AsyncIterator[bytes]) -> None:
        given.append((status, answered, b"".join([piece async for piece in pieces])))

    await kling.forward(method, path, content, PassThrough(query=query, headers=headers or {}), write_response=give)
    (only,) = given
    return only


async def test_a_forwarded_call_comes_and_goes_as_it_is_but_for_the_key() -> None:
    says = ScriptedAnswer(
        document=b'{"code":0, "data":[ ]}',
        status=203,
        headers={
            "Content-Type": "application/json; charset=utf-8",
            "X-Request-Id": "r-9",
            "X-RateLimit-Remaining": "4",
            "Set-Cookie": "a=b",
            "Server": "x",
        },
    )
    headers = {
        "Authorization": "Bearer of-the-client",
        "Content-Type": "application/json",
        "Accept": "application/json",
        "Cookie": "a=b",
        "X-Forwarded-For": "10.0.0.1",
        "Host": "localhost",
        "Content-Length": "999",
    }
    async with a_scripted_server(says) as server, a_client(server.url + "/kling") as kling:
        path = "v1/general/custom-voices/1"
        status, passed, body = await forward(
            kling, "DELETE", path, query="a=1&b=%20x", content=b'{"x":1}', headers=headers
        )

    (request,) = server.requests
    assert (request.method, request.target) == ("DELETE", "/kling/v1/general/custom-voices/1?a=1&b=%20x")
    assert request.body == b'{"x":1}'
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.headers["content-type"] == request.headers["accept"] == "application/json"
    assert not {"cookie", "x-forwarded-for"} & request.headers.keys()
    assert (status, body) == (203, b'{"code":0, "data":[ ]}')
    assert passed == {
        "content-length": "22",
        "content-type": "application/json; charset=utf-8",
        "x-request-id": "r-9",
        "x-ratelimit-remaining": "4",
    }


@pytest.mark.parametrize(
    ("path", "query", "target"),
    [
        ("v1/images/generations/a%2Fb", "", "/v1/images/generations/a%2Fb"),
        ("/v1//images", "pageNum=1&pageSize=30", "/v1//images?pageNum=1&pageSize=30"),
        ("v1/images/ü x", "q=ü x#y", "/v1/images/%C3%BC%20x?q=%C3%BC%20x%23y"),
        ("tasks", "task_ids=a,b", "/tasks?task_ids=a,b"),
        ("/elsewhere.example/x", "", "/elsewhere.example/x"),
        ("v1/a?b#c", "", "/v1/a%3Fb%23c"),
        ("v1/a\r\nx: y", "", "/v1/a%0D%0Ax:%20y"),
    ],
)
async def test_a_forwarded_path_stays_on_klings_host_and_is_always_a_path(path: str, query: str, target: str) -> None:
    async with a_scripted_server(ScriptedAnswer(document={"code": 0})) as server, a_client(server.url) as kling:
        await forward(kling, "GET", path, query=query)

    assert [request.target for request in server.requests] == [target]


@pytest.mark.parametrize("path", ["../admin", "v1/../../admin", "v1/%2e%2E/x", "."])
async def test_a_forwarded_path_may_not_climb(path: str) -> None:
    async with a_scripted_server(ScriptedAnswer(document={})) as server, a_client(server.url) as kling:
        with pytest.raises(InvalidRequest):
            await forward(kling, "GET", path)

    assert not server.requests


async def test_a_forwarded_call_that_fails_has_kling_s_own_status_and_body() -> None:
    says = ScriptedAnswer(document={"code": 5000, "message": "x"}, status=500)
    async with a_scripted_server(says) as server, a_client(server.url) as kling:
        status, _, body = await forward(kling, "POST", "v1/audio/tts", content=b"{}")

    assert (status, body) == (500, b'{"code": 5000, "message": "x"}')


async def test_a_forwarded_answer_need_not_be_json() -> None:
    says = ScriptedAnswer(document=b"\x89PNG", headers={"Content-Type": "image/png"})
    async with a_scripted_server(says) as server, a_client(server.url) as kling:
        status, headers, body = await forward(kling, "GET", "v1/x")

    assert (status, body, headers["content-type"]) == (200, b"\x89PNG", "image/png")


EXPIRED = {"code": 1004, "message": "authorization has expired"}


async def test_a_forwarded_call_is_made_again_under_a_new_token_and_answered_once() -> None:
    says = iter([ScriptedAnswer(document=EXPIRED, status=401), ScriptedAnswer(document={"code": 0})])
    async with a_scripted_server(lambda _: next(says)) as server, a_client(server.url, pair=True) as kling:
        status, _, body = await forward(kling, "POST", "v1/audio/tts", content=b'{"text":"a"}')

    assert (status, body) == (200, b'{"code": 0}')
    assert [request.body for request in server.requests] == [b'{"text":"a"}'] * 2


async def test_another_401_comes_back_as_it_is() -> None:
    says = ScriptedAnswer(document=b'{ "code":1000 }', status=401)
    async with a_scripted_server(says) as server, a_client(server.url, pair=True) as kling:
        status, _, body = await forward(kling, "GET", "v1/x")

    assert (status, body) == (401, b'{ "code":1000 }')
    assert len(server.requests) == 1


@pytest.mark.parametrize("size", [None, 6])
async def test_a_body_that_is_still_coming_in_goes_out_as_it_comes_and_once(size: int | None) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for piece in (b"one", b"two"):
            yield piece

    says = ScriptedAnswer(document=EXPIRED, status=401)
    async with a_scripted_server(says) as server, a_client(server.url, pair=True) as kling:
        status, _, _ = await forward(kling, "POST", "v1/x", content=StreamedBody(size=size, chunks=pieces()))

    assert status == 401
    (request,) = server.requests
    assert request.body == b"onetwo"
    assert request.headers.get("content-length") == (None if size is None else "6")
