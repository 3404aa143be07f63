"""Who may open a page of the console, and which requests may act."""

from datetime import timedelta

import httpx2 as httpx
import pytest
from console.pages import all_routes
from harness.http_client import plain_http
from harness.web_app import READ_TOKEN, TOKEN, WebApp
from starlette.routing import Route

from receiver.web.console.gate import LOGIN, is_browser_path, local_path
from receiver.web.console.sessions import IDLE_LIMIT, LINK_LIFETIME
from receiver.web.console.static_files import PREFIX, static_url

pytestmark = pytest.mark.asyncio(loop_scope="session")

PUBLIC = {LOGIN, f"{LOGIN}/{{link}}", "/console/logout", "/console/static/{digest}/{name:path}"}


def from_our_page(web: WebApp) -> dict[str, str]:
    return {"origin": f"http://{web.admin}", "sec-fetch-site": "same-origin"}


async def log_in(web: WebApp, token: str = TOKEN, **more: str) -> httpx.Response:
    async with plain_http(base_url=f"http://{web.admin}") as client:
        return await client.post(LOGIN, data={"token": token, **more}, headers=from_our_page(web))


async def session(web: WebApp, token: str = TOKEN) -> str:
    """Log in, and return the cookie as a request sends it."""
    answer = await log_in(web, token)
    assert answer.status_code == 303
    return answer.headers["set-cookie"].partition(";")[0]


async def send(web: WebApp, method: str, path: str, **headers: str) -> httpx.Response:
    async with plain_http(base_url=f"http://{web.admin}") as client:
        return await client.request(
            method, path, headers={name.replace("_", "-"): each for name, each in headers.items()}
        )


def routes(web: WebApp) -> list[Route]:
    return [each for each in all_routes(web) if is_browser_path(each.path)]


async def test_no_page_opens_without_a_session(web: WebApp) -> None:
    protected = [route for route in routes(web) if route.path not in PUBLIC]

    assert len(protected) > 1
    for route in protected:
        for method in route.methods or ():
            answer = await send(web, method, route.path.replace("{", "").replace("}", "").replace(":path", ""))
            assert (answer.status_code, answer.headers["location"].partition("?")[0]) == (303, LOGIN), route.path


@pytest.mark.parametrize("path", ["/console/nothing", "/results/nothing", "/results/tsk_1/0.png", "/console/login2"])
async def test_a_path_that_no_page_serves_needs_a_session_too(web: WebApp, path: str) -> None:
    assert (await send(web, "GET", path, accept="text/html,*/*;q=0.8")).status_code == 303


async def test_a_program_that_fetches_a_file_without_a_token_gets_no_page(web: WebApp) -> None:
    answer = await send(web, "GET", "/results/tsk_1/0.png", accept="*/*")

    assert (answer.status_code, answer.headers["content-type"]) == (401, "application/problem+json")


async def test_a_session_is_valid_for_the_console_only(web: WebApp) -> None:
    cookie = await session(web)

    assert (await send(web, "GET", "/console", cookie=cookie)).status_code == 200
    for path in ("/api/tasks", "/metrics", "/kling/v1/images/generations", "/consolex", "/resultsx"):
        assert (await send(web, "GET", path, cookie=cookie)).status_code == 401


async def test_a_wrong_token_starts_no_session(web: WebApp) -> None:
    answer = await log_in(web, "wrong")

    assert answer.status_code == 401
    assert "set-cookie" not in answer.headers


async def test_a_client_that_guesses_tokens_must_wait(web: WebApp) -> None:
    for _ in range(10):
        assert (await log_in(web, "wrong")).status_code == 401

    refused = await log_in(web)
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "60"
    web.clock.advance(timedelta(minutes=1))
    assert (await log_in(web)).status_code == 303


async def test_the_cookie_is_for_this_site_and_not_for_scripts(web: WebApp) -> None:
    plain = (await log_in(web)).headers["set-cookie"]

    assert {part.strip().lower() for part in plain.split(";")[1:]} == {"httponly", "path=/", "samesite=strict"}
    async with plain_http(base_url=f"http://{web.admin}") as client:
        behind_tls = await client.post(
            LOGIN, data={"token": TOKEN}, headers={**from_our_page(web), "origin": f"https://{web.admin}"}
        )
    assert "; Secure" in behind_tls.headers["set-cookie"]


async def test_a_session_ends_twelve_hours_after_the_last_visit(web: WebApp) -> None:
    cookie = await session(web)

    web.clock.advance(IDLE_LIMIT - timedelta(seconds=1))
    assert (await send(web, "GET", "/console", cookie=cookie)).status_code == 200
    web.clock.advance(IDLE_LIMIT - timedelta(seconds=1))
    assert (await send(web, "GET", "/console", cookie=cookie, hx_request="true")).status_code == 200
    web.clock.advance(timedelta(seconds=1))
    assert (await send(web, "GET", "/console", cookie=cookie)).status_code == 303


async def test_a_refresh_without_a_session_redirects_to_the_login(web: WebApp) -> None:
    answer = await send(web, "GET", "/console/live", hx_request="true")

    assert answer.status_code == 401
    assert answer.headers["hx-redirect"].startswith(LOGIN)


async def test_logout_ends_the_session(web: WebApp) -> None:
    cookie = await session(web)
    async with plain_http(base_url=f"http://{web.admin}") as client:
        await client.post("/console/logout", headers={**from_our_page(web), "cookie": cookie})

    assert (await send(web, "GET", "/console", cookie=cookie)).status_code == 303


async def test_a_login_replaces_a_planted_session(web: WebApp) -> None:
    planted = await session(web, READ_TOKEN)
    async with plain_http(base_url=f"http://{web.admin}") as client:
        answer = await client.post(LOGIN, data={"token": TOKEN}, headers={**from_our_page(web), "cookie": planted})

    assert answer.headers["set-cookie"].partition(";")[0] != planted
    assert (await send(web, "GET", "/console", cookie=planted)).status_code == 303


async def test_a_login_link_is_valid_once_and_for_a_minute(web: WebApp) -> None:
    first, second = [(await web.client.post("/api/console/links")).json()["path"] for _ in range(2)]

    assert (await send(web, "HEAD", first)).status_code == 200
    assert (await send(web, "GET", first)).status_code == 303
    assert (await send(web, "GET", first)).status_code == 401
    web.clock.advance(LINK_LIFETIME)
    assert (await send(web, "GET", second)).status_code == 401


async def test_a_read_token_gets_no_link(web: WebApp) -> None:
    answer = await send(web, "POST", "/api/console/links", authorization=f"Bearer {READ_TOKEN}")

    assert answer.status_code == 403


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"origin": "http://HOST"},
        {"sec-fetch-site": "same-origin"},
        {"sec-fetch-site": "same-origin", "origin": "null"},
        {"sec-fetch-site": "same-origin", "origin": "http://evil.example"},
        {"sec-fetch-site": "same-origin", "origin": "http://HOST.evil.example"},
        {"sec-fetch-site": "same-site", "origin": "http://HOST"},
        {"sec-fetch-site": "cross-site", "origin": "http://HOST"},
        {"sec-fetch-site": "none", "origin": "http://HOST"},
    ],
)
async def test_a_form_of_another_origin_is_refused(web: WebApp, headers: dict[str, str]) -> None:
    cookie = await session(web)
    sent = {name: each.replace("HOST", str(web.admin)) for name, each in headers.items()} | {"cookie": cookie}

    for route in routes(web):
        if "POST" in (route.methods or ()):
            path = route.path.replace("{", "").replace("}", "").replace(":path", "")
            async with plain_http(base_url=f"http://{web.admin}") as client:
                answer = await client.post(path, data={"token": TOKEN}, headers=sent)
            assert answer.status_code == 403, route.path


async def test_a_request_for_another_host_is_refused(web: WebApp) -> None:
    cookie = await session(web)

    assert (await send(web, "GET", "/console", cookie=cookie, host="rebound.example")).status_code == 421


@pytest.mark.parametrize("path", ["/console", LOGIN, "/console/nothing", "/results/nothing"])
async def test_every_page_forbids_scripts_frames_and_caches(web: WebApp, path: str) -> None:
    answer = await send(web, "GET", path, cookie=await session(web))
    policy = answer.headers["content-security-policy"]

    assert policy.startswith("default-src 'none'; ")
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["content-type"] == "text/html; charset=utf-8"


@pytest.mark.parametrize(
    ("given", "leads_to"),
    [
        ("/console/tasks?state=failed", "/console/tasks?state=failed"),
        ("/results/a/b", "/results/a/b"),
        ("https://evil.example/console", "/console"),
        ("//evil.example/console", "/console"),
        ("/console/..//evil.example", "/console"),
        ("/console\\evil", "/console"),
        ("/console/\r\nx: y", "/console"),
        ("/api/tasks", "/console"),
        (LOGIN, "/console"),
    ],
)
async def test_a_login_redirects_only_to_console_pages(given: str, leads_to: str) -> None:
    assert local_path(given) == leads_to


async def test_a_static_file_of_another_version_is_served_and_not_kept(web: WebApp) -> None:
    same, other = static_url("console.css"), f"{PREFIX}/{'0' * 16}/console.css"

    answers = [await send(web, "GET", path) for path in (same, other)]

    assert [each.status_code for each in answers] == [200, 200]
    assert answers[0].content == answers[1].content
    assert ["immutable" in each.headers["cache-control"] for each in answers] == [True, False]
    assert (await send(web, "GET", f"{PREFIX}/{'0' * 16}/nothing.css")).status_code == 404
