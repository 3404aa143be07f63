"""A client that forgot the gateway's prefix is told the right path, if it has the admin token."""

import pytest
from harness.web_app import WebApp


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_path_without_the_prefix_is_answered_with_the_right_one(web: WebApp, method: str) -> None:
    answer = await web.client.request(method, "/v1/images/generations")

    assert answer.status_code == 404
    assert answer.json()["detail"] == (
        "Nothing is served at this path. Kling's API is under /kling/: /kling/v1/images/generations."
    )


async def test_without_the_token_the_path_is_refused(web: WebApp) -> None:
    answer = await web.client.get("/v1/images/generations", headers={"authorization": "Bearer wrong"})

    assert answer.status_code == 401
