"""The client authenticates with an API key or a signed token, and never shows either."""

from datetime import timedelta

import jwt
import pytest
from harness.clock import FakeClock
from harness.logs import capture_logs
from harness.scripted_kling import (
    CREATED,
    ENDPOINT,
    KEY,
    SECRET_KEY,
    Request,
    ScriptedAnswer,
    a_client,
    a_scripted_server,
)

from receiver.domain.errors import (
    KlingUnreachable,
    TokenRejected,
)
from receiver.domain.model import Json
from receiver.kling.pass_through import PassThrough


def _token(request: Request) -> Json:
    scheme, _, token = request.headers["authorization"].partition(" ")
    assert scheme == "Bearer"
    claims: Json = jwt.decode(
        token, SECRET_KEY.encode(), algorithms=["HS256"], options={"verify_exp": False, "verify_nbf": False}
    )
    return {"header": jwt.get_unverified_header(token), "claims": claims}


@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
async def test_a_key_pairs_token_is_reused_until_shortly_before_its_expiry() -> None:
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
async def test_a_rejected_token_is_renewed_once(code: int) -> None:
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
async def test_a_create_is_not_repeated_with_a_new_token_once_the_check_before_it_fails() -> None:
    checks = iter([None, KlingUnreachable("Another node submits tasks now.")])

    async def check() -> None:
        if (error := next(checks)) is not None:
            raise error

    expired = ScriptedAnswer(document={"code": 1004}, status=401)
    async with a_scripted_server(expired) as server, a_client(server.url, clock=FakeClock(), pair=True) as kling:
        with pytest.raises(KlingUnreachable, match="Another node"):
            await kling.create(ENDPOINT, b"{}", before_send=check)

    assert len(server.requests) == 1


@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
async def test_a_create_with_a_renewed_token_keeps_its_clients_headers() -> None:
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
async def test_a_renewed_token_is_used_from_then_on() -> None:
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


async def test_an_api_key_is_not_renewed() -> None:
    async with (
        a_scripted_server(ScriptedAnswer(document={"code": 1004}, status=401)) as server,
        a_client(server.url) as kling,
    ):
        answer = await kling.create(ENDPOINT, b"{}")

    assert isinstance(answer.error, TokenRejected)
    assert len(server.requests) == 1


async def test_without_a_key_no_authorization_is_sent() -> None:
    async with a_scripted_server(ScriptedAnswer(document=CREATED)) as server, a_client(server.url, key=None) as kling:
        await kling.create(ENDPOINT, b"{}")

    assert "authorization" not in server.requests[0].headers


@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
@pytest.mark.parametrize("pair", [False, True])
async def test_a_key_that_the_server_quotes_is_hidden(pair: bool) -> None:
    def script(request: Request) -> ScriptedAnswer:
        quoted = f"bad {request.headers['authorization']} {KEY} {SECRET_KEY}"
        return ScriptedAnswer(document={"code": 1002, "message": quoted}, status=401)

    async with a_scripted_server(script) as server, a_client(server.url, pair=pair) as kling:
        with capture_logs() as logs:
            answer = await kling.create(ENDPOINT, b"{}")

    shown = f"{answer!r} {answer.error} {answer.error!r} {kling!r} {vars(kling)} {logs}"
    token = server.requests[0].headers["authorization"].removeprefix("Bearer ")
    assert token not in shown
    assert (SECRET_KEY if pair else KEY) not in shown
    assert "***" in shown
