"""What the read token of the admin listener permits."""

import httpx2 as httpx
import pytest
from harness.http_client import plain_http
from harness.web_app import READ_TOKEN, WebApp

WRITES = [
    ("POST", "/api/tasks"),
    ("POST", "/api/routes/publish/hold"),
    ("POST", "/api/callback-urls"),
    ("POST", "/kling/v1/images/multi-image2image"),
    ("PUT", "/kling/v1/images/multi-image2image"),
    ("DELETE", "/kling/v1/general/custom-voices/1"),
    ("POST", "/metrics"),
    ("POST", "/nowhere"),
]


async def call(web: WebApp, method: str, path: str, token: str = READ_TOKEN) -> httpx.Response:
    async with plain_http(base_url=f"http://{web.admin}") as client:
        return await client.request(method, path, headers={"authorization": f"Bearer {token}"})


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("path", ["/api/tasks", "/api/routes", "/openapi.json", "/metrics"])
async def test_the_read_token_reads(web: WebApp, method: str, path: str) -> None:
    assert (await call(web, method, path)).status_code == 200


@pytest.mark.parametrize(("method", "path"), WRITES)
async def test_a_write_with_the_read_token_is_refused_and_says_what_to_do(web: WebApp, method: str, path: str) -> None:
    answer = await call(web, method, path)

    assert answer.status_code == 403
    assert answer.headers["www-authenticate"].endswith('error="insufficient_scope"')
    assert "[admin] read_token" in answer.text
    assert "GET and HEAD" in answer.text
    assert method in answer.text
    assert web.kling.requests == []
    assert (await web.store.catalog.tasks()).items == []


@pytest.mark.parametrize("token", [READ_TOKEN[:-1], f"{READ_TOKEN}x", READ_TOKEN.upper()])
async def test_a_token_like_the_read_token_is_refused(web: WebApp, token: str) -> None:
    assert (await call(web, "GET", "/api/tasks", token)).status_code == 401
