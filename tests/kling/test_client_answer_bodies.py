"""The client decodes compressed bodies, and hides our key in bodies that quote it."""

import gzip
import json
from collections.abc import AsyncIterator, Mapping

import pytest
from harness.scripted_kling import (
    CREATED,
    ENDPOINT,
    KEY,
    Request,
    ScriptedAnswer,
    a_client,
    a_scripted_server,
)

from receiver.domain.errors import KlingUncertain
from receiver.kling.client import KlingClient
from receiver.kling.pass_through import NO_PASS_THROUGH

GZIP = {"Content-Encoding": "gzip"}


def _gzipped(document: object) -> ScriptedAnswer:
    return ScriptedAnswer(document=gzip.compress(json.dumps(document).encode()), headers=GZIP)


async def _forward(kling: KlingClient, method: str = "GET") -> tuple[Mapping[str, str], bytes]:
    got: list[tuple[Mapping[str, str], bytes]] = []

    async def take(_status: int, headers: Mapping[str, str], chunks: AsyncIterator[bytes]) -> None:
        got.append((headers, b"".join([chunk async for chunk in chunks])))

    await kling.forward(method, "v1/account/costs", b"", NO_PASS_THROUGH, write_response=take)
    return got[0]


async def test_a_gzipped_create_answer_is_read_and_returned_decoded() -> None:
    async with a_scripted_server(_gzipped(CREATED)) as server, a_client(server.url) as kling:
        answer = await kling.create(ENDPOINT, b"{}")

    assert answer.report is not None
    assert answer.report.kling_id == "867283741759111202"
    assert json.loads(answer.body) == CREATED
    assert "content-encoding" not in answer.headers


async def test_an_answer_in_an_unknown_coding_counts_as_lost() -> None:
    scripted = ScriptedAnswer(document=b"\x8b\x02\x80", headers={"Content-Encoding": "br"})
    async with a_scripted_server(scripted) as server, a_client(server.url) as kling:
        answer = await kling.create(ENDPOINT, b"{}")

    assert isinstance(answer.error, KlingUncertain)
    assert "HTTP 200 with a body that cannot be decoded (content-encoding br)" in answer.error.message
    assert answer.headers["content-encoding"] == "br"  # so that a client of the gateway may read it


async def test_a_forwarded_answer_in_gzip_is_decoded() -> None:
    async with a_scripted_server(_gzipped({"code": 0})) as server, a_client(server.url) as kling:
        headers, body = await _forward(kling)

    assert json.loads(body) == {"code": 0}
    assert not {"content-encoding", "content-length"} & set(headers)


@pytest.mark.parametrize("status", [200, 401])
async def test_a_quoted_key_is_in_no_body_message_or_header(status: int) -> None:
    def script(request: Request) -> ScriptedAnswer:
        quoted = request.headers["authorization"]
        headers = {"X-Request-Id": f"of {quoted}", "Content-Encoding": "gzip"}
        body = gzip.compress(json.dumps({"code": 1002, "message": f"bad {quoted}"}).encode())
        return ScriptedAnswer(document=body, status=status, headers=headers)

    async with a_scripted_server(script) as server, a_client(server.url) as kling:
        answer = await kling.create(ENDPOINT, b"{}")
        forwarded = await _forward(kling)

    shown = f"{answer.body!r} {answer.headers} {answer.error} {forwarded}"
    assert KEY not in shown
    assert shown.count("bad Bearer ***") == 3


async def test_an_answer_without_our_key_keeps_its_length() -> None:
    async with a_scripted_server(ScriptedAnswer(document={"code": 0})) as server, a_client(server.url) as kling:
        headers, body = await _forward(kling)

    assert (headers["content-length"], body) == ("11", b'{"code": 0}')
