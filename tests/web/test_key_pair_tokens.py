"""A client that knows only an access key and a secret key signs its own token. The secret key is the admin token."""

import warnings
from typing import Any

import httpx2 as httpx
import jwt
import pytest
from harness.http_client import plain_http
from harness.web_app import READ_TOKEN, TOKEN, WebApp

from receiver.domain.clock import SystemClock

CREATE = "/kling/v1/images/multi-image2image"
QUERY = f"{CREATE}/8672"
BODY = {"prompt": "a cat"}
NOW = int(SystemClock().now().timestamp())


def signed(key: str = TOKEN, *, algorithm: str = "HS256", **claims: Any) -> str:
    """Return a token as Kling's clients sign it."""
    values = {"iss": "any-access-key", "exp": NOW + 86_400, "nbf": NOW - 5} | claims
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return jwt.encode({name: value for name, value in values.items() if value}, key, algorithm=algorithm)


async def call(web: WebApp, token: str, *, path: str = CREATE) -> httpx.Response:
    async with plain_http(base_url=f"http://{web.admin}") as client:
        method, body = ("POST", BODY) if path == CREATE else ("GET", None)
        return await client.request(method, path, json=body, headers={"authorization": f"Bearer {token}"})


async def test_a_token_signed_with_the_admin_token_makes_a_task(web: WebApp) -> None:
    answer = await call(web, signed())

    assert (answer.status_code, answer.json()["data"]["task_id"]) == (200, "8672")
    assert web.kling.requests[0].headers["authorization"] == "Bearer kling-key"


@pytest.mark.parametrize(
    ("token", "message"),
    [
        (signed("another-secret"), "not signed with the admin token"),
        (signed(exp=NOW - 3600), "Signature has expired"),
        (signed(nbf=NOW + 3600), "not yet valid"),
        (signed(exp=None), "exp"),
        (signed("", algorithm="none"), "The specified alg value is not allowed"),
        (signed() + "x", "not signed with the admin token"),
        ("eyJ.e30.x", "The signed token is not valid"),
    ],
    ids=["secret", "expired", "early", "endless", "unsigned", "changed", "broken"],
)
async def test_any_other_signed_token_is_refused_in_klings_shape(web: WebApp, token: str, message: str) -> None:
    answer = await call(web, token)

    assert (answer.status_code, answer.json()["code"]) == (401, 1000)
    assert message in answer.json()["message"]
    assert web.kling.requests == []


async def test_a_token_signed_with_the_read_token_may_only_query(web: WebApp) -> None:
    assert (await call(web, signed(READ_TOKEN))).status_code == 403
    assert (await call(web, signed(READ_TOKEN), path=QUERY)).status_code == 200


async def test_a_signed_token_is_refused_outside_the_gateway(web: WebApp) -> None:
    assert (await call(web, signed(), path="/api/tasks")).status_code == 401
