"""Who may use the admin listener."""

import asyncio
from collections.abc import Sequence

import httpx2 as httpx
import pytest
from harness.http_client import plain_http
from harness.web_app import TOKEN, WebApp

from receiver.domain.api_schema.resources import Check
from receiver.settings import Address
from receiver.web.resources.health import with_disk_check
from receiver.web.server.allowed_hosts import AllowedHosts

PAGES = ["/api/tasks", "/api/stream", "/results/a/0.png", "/metrics", "/nowhere", "/"]


async def get(address: Address, path: str, **headers: str) -> httpx.Response:
    async with plain_http(base_url=f"http://{address}") as client:
        return await client.get(path, headers=headers)


@pytest.mark.parametrize("path", PAGES)
async def test_every_path_requires_the_token(web: WebApp, path: str) -> None:
    answer = await get(web.admin, path)

    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == "unauthorized"


@pytest.mark.parametrize(
    "shown", ["Bearer wrong", "Bearer", "the-admin-token", "Basic dTpw", "Bearer the-admin-token2"]
)
async def test_a_wrong_token_is_refused(web: WebApp, shown: str) -> None:
    answer = await get(web.admin, "/api/tasks", authorization=shown)

    assert answer.status_code == 401
    assert 'error="invalid_token"' in answer.headers["www-authenticate"]


async def test_the_authorization_scheme_is_case_insensitive(web: WebApp) -> None:
    answer = await get(web.admin, "/api/tasks", authorization=f"bearer {TOKEN}")

    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("why", "reasons"),
    [("", ["", "It has ended."]), ("No room.", ["No room.", "It has ended."])],
    ids=["space", "no space"],
)
async def test_a_store_that_refuses_new_data_makes_the_service_unready(why: str, reasons: list[str]) -> None:
    async def other_checks() -> Sequence[Check]:
        return [Check(name="store", ok=True), Check(name="dispatcher", ok=False, reason="It has ended.")]

    checks = await with_disk_check(other_checks, lambda: why)()

    assert [check.reason for check in checks] == reasons
    assert [check.ok for check in checks] == [not why, False]


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
async def test_health_needs_no_token(web: WebApp, path: str) -> None:
    answer = await get(web.admin, path, host="monitoring.example")

    assert answer.status_code == 200


async def test_an_unready_service_answers_with_the_reason(web: WebApp) -> None:
    web.checks[:] = [type(web.checks[0])(name="store", ok=False, reason="The disk is nearly full.")]

    answer = await get(web.admin, "/readyz")

    assert answer.status_code == 503
    assert answer.json() == {
        "ready": False,
        "checks": [{"name": "store", "ok": False, "reason": "The disk is nearly full."}],
    }


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8701", 200),
        ("LOCALHOST", 200),
        ("127.0.0.1", 200),
        ("[::1]:8701", 200),
        ("receiver.localhost", 200),
        ("attacker.example", 421),
        ("attacker.example:8701", 421),
        ("127.0.0.1.attacker.example", 421),
        ("localhost.attacker.example", 421),
        ("", 421),
    ],
)
async def test_only_the_services_own_host_names_are_answered(web: WebApp, host: str, status: int) -> None:
    answer = await web.client.get("/api/tasks", headers={"host": host})

    assert answer.status_code == status


async def test_a_refused_host_is_answered_with_the_key_that_allows_it(web: WebApp) -> None:
    answer = await web.client.get("/api/tasks", headers={"host": "tasks.example.com"})

    assert answer.status_code == 421
    assert "[admin] hosts" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("listen", "hosts", "host", "is_allowed"),
    [
        ("127.0.0.1", ("tasks.example.com",), "tasks.example.com:443", True),
        ("127.0.0.1", ("Tasks.Example.com.",), "tasks.example.com", True),
        ("127.0.0.1", ("b\u00fccher.example",), "xn--bcher-kva.example", True),
        ("127.0.0.1", ("tasks.example.com",), "other.example.com", False),
        ("127.0.0.1", (), "kling.lan", False),
        ("0.0.0.0", (), "kling-receiver:8701", True),
        ("::", (), "kling.lan", True),
        ("0.0.0.0", (), "", False),
        ("0.0.0.0", ("kling.lan",), "other.lan", False),
        ("0.0.0.0", ("kling.lan",), "192.0.2.7:8701", True),
    ],
)
def test_the_admin_listener_accepts_the_configured_hosts(
    listen: str, hosts: tuple[str, ...], host: str, *, is_allowed: bool
) -> None:
    assert AllowedHosts(Address(listen, 8701), hosts, any_if_open=True).allows(host) is is_allowed


async def test_a_kling_client_without_the_token_gets_klings_error_shape(web: WebApp) -> None:
    answer = await get(web.admin, "/kling/v1/images/generations/1", authorization="Bearer a-kling-key")

    assert answer.status_code == 401
    assert answer.json()["code"] == 1000
    assert "www-authenticate" in answer.headers


async def test_no_header_allows_other_origins(web: WebApp) -> None:
    headers = {"origin": "https://attacker.example", "access-control-request-method": "POST"}

    answer = await web.client.options("/api/tasks", headers=headers)

    assert answer.status_code == 405
    assert not [name for name in answer.headers if name.startswith("access-control-")]


async def test_a_half_closed_connection_is_answered(web: WebApp) -> None:
    reader, writer = await asyncio.open_connection(web.admin.host, web.admin.port)
    writer.write(b"GET /api/tasks HTTP/1.1\r\nhost: localhost\r\n\r\n")
    writer.write_eof()

    answer = await reader.readline()

    assert b" 401 " in answer
    writer.close()
