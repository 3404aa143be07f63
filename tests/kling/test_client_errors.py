"""The client distinguishes errors, uncertain creates and an unreachable Kling."""

import json
from datetime import timedelta
from email.utils import format_datetime

import pytest
from harness.clock import FakeClock
from harness.ports import free_port
from harness.scripted_kling import ENDPOINT, ScriptedAnswer, a_client, a_scripted_server, forward

from receiver.domain.errors import (
    KlingRefusal,
    KlingUncertain,
    KlingUnreachable,
    SlotsFull,
)


async def test_an_answer_with_an_error_code_returns_the_error() -> None:
    scripted = ScriptedAnswer(
        document={"code": 1303, "message": "full", "request_id": "r"}, status=429, headers={"Retry-After": "3"}
    )
    async with a_scripted_server(scripted) as server, a_client(server.url) as kling:
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
    scripted = ScriptedAnswer(document={"code": 1302}, status=429, headers={"Retry-After": at})
    async with a_scripted_server(scripted) as server, a_client(server.url, clock=clock) as kling:
        answer = await kling.create(ENDPOINT, b"{}")

    assert isinstance(answer.error, KlingRefusal)
    assert answer.error.retry_after == timedelta(minutes=2)


@pytest.mark.parametrize(
    "scripted",
    [
        ScriptedAnswer(document={"code": 5000}, status=500),
        ScriptedAnswer(document={"code": 5002}, status=504),
        ScriptedAnswer(document=b"Bad gateway", status=502),
        ScriptedAnswer(document=b"<html>Welcome</html>"),
    ],
)
async def test_a_create_with_an_unclear_answer_is_uncertain(scripted: ScriptedAnswer) -> None:
    async with a_scripted_server(scripted) as server, a_client(server.url) as kling:
        answer = await kling.create(ENDPOINT, b"{}")

    assert isinstance(answer.error, KlingUncertain)
    assert answer.status == scripted.status
    assert len(server.requests) == 1


@pytest.mark.parametrize("raw", [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{", b"SSH-2.0-hello\r\n\r\n"])
async def test_a_break_after_the_request_is_uncertain_and_not_repeated(
    raw: bytes,
) -> None:
    async with a_scripted_server(ScriptedAnswer(raw=raw)) as server, a_client(server.url) as kling:
        with pytest.raises(KlingUncertain) as caught:
            await kling.create(ENDPOINT, b"{}")

    assert len(server.requests) == 1
    assert "127.0.0.1" in caught.value.message


async def test_a_timeout_without_an_answer_is_uncertain() -> None:
    async with (
        a_scripted_server(ScriptedAnswer(never_answers=True)) as server,
        a_client(server.url, seconds=0.2) as kling,
    ):
        with pytest.raises(KlingUncertain):
            await kling.create(ENDPOINT, b"{}")


async def test_a_refused_connection_is_unreachable() -> None:
    async with a_client(f"http://127.0.0.1:{free_port()}") as kling:
        with pytest.raises(KlingUnreachable, match="Kling cannot be reached"):
            await kling.create(ENDPOINT, b"{}")
        with pytest.raises(KlingUnreachable):
            await kling.query(ENDPOINT, "1")
        with pytest.raises(KlingUnreachable):
            await forward(kling, "GET", "v1/images/generations")
