"""``/openapi.json`` needs no token on a loopback listener, if the request comes directly from this machine."""

import contextlib
from typing import Any

import pytest
from harness.http_client import plain_http
from harness.web_app import TOKEN, WebApp

from receiver.domain.secret import Secret
from receiver.settings import Address
from receiver.web.auth import TokenAuth
from receiver.web.server.problems import Problem

LOCAL, ANY, OTHER = "127.0.0.1", "0.0.0.0", "192.0.2.7"


async def test_a_local_tool_may_read_the_document_without_a_token(web: WebApp) -> None:
    async with plain_http(base_url=f"http://{web.admin}") as client:
        answers = [await client.request(method, "/openapi.json") for method in ("GET", "HEAD")]

    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[0].json()["openapi"] == "3.1.0"


@pytest.mark.parametrize(
    "headers",
    [
        {"forwarded": "for=127.0.0.1"},
        {"x-forwarded-for": LOCAL},
        {"x-forwarded-host": "localhost"},
        {"x-forwarded-proto": "https"},
        {"x-real-ip": LOCAL},
        {"via": "1.1 proxy"},
        {"authorization": "Bearer wrong"},
        {"host": "evil.example"},
    ],
)
async def test_a_forwarded_request_needs_the_token(web: WebApp, headers: dict[str, str]) -> None:
    async with plain_http(base_url=f"http://{web.admin}") as client:
        refused = await client.get("/openapi.json", headers=headers)

    assert refused.status_code == (421 if "host" in headers else 401)


@pytest.mark.parametrize(
    ("listen", "server", "peer", "is_open"),
    [
        (LOCAL, LOCAL, LOCAL, True),
        ("::1", "::1", "::1", True),
        ("localhost", LOCAL, "127.8.9.10", True),
        (LOCAL, LOCAL, "::ffff:127.0.0.1", True),
        (ANY, LOCAL, LOCAL, False),
        ("::", "::1", "::1", False),
        (LOCAL, OTHER, LOCAL, False),
        (LOCAL, LOCAL, OTHER, False),
        (OTHER, OTHER, OTHER, False),
        (LOCAL, LOCAL, None, False),
    ],
)
async def test_local_access_needs_loopback_on_both_ends_and_the_listener(
    listen: str, server: str, peer: str | None, is_open: bool
) -> None:
    assert await passes(listen, server, peer, path="/openapi.json", method="GET") is is_open


@pytest.mark.parametrize(("method", "path"), [("POST", "/openapi.json"), ("GET", "/api/tasks"), ("GET", "/metrics")])
async def test_no_other_path_is_open_on_loopback(method: str, path: str) -> None:
    assert not await passes(LOCAL, LOCAL, LOCAL, path=path, method=method)


async def passes(listen: str, server: str, peer: str | None, *, path: str, method: str) -> bool:
    """Return whether a request without a token reaches the app."""
    reached: list[str] = []

    async def app(scope: Any, _receive: Any, _send: Any) -> None:
        reached.append(scope["path"])

    async def nothing(*_: Any) -> Any:
        raise AssertionError

    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "headers": [(b"host", b"localhost")],
        "server": (server, 8701),
        "client": None if peer is None else (peer, 50_000),
    }
    auth = TokenAuth(app, token=Secret(TOKEN), listen=Address(listen, 8701))
    with contextlib.suppress(Problem):
        await auth(scope, nothing, nothing)
    return bool(reached)
