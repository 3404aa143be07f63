"""An address with a wrong value is answered by a page that says what is wrong, and leads on."""

import pytest
from console.test_gate import send, session
from harness.web_app import WebApp

pytestmark = pytest.mark.asyncio(loop_scope="session")

WRONG = [
    ("costs", "by=tag", "&#39;by&#39; must be tag:NAME or one of:"),
    ("costs", "from=yesterday", "&#39;from&#39; must be"),
    ("costs/csv", "by=colour", "&#39;by&#39; must be"),
    ("tasks", "state=done", "must be one of: awaiting"),
    ("tasks", "cursor=x", "cursor"),
    ("tasks", "colour=red", "colour"),
    ("events", "from=x", "&#39;from&#39; must be"),
    ("deliveries", "status=done", "must be one of:"),
    ("attempts", "cursor=x", "cursor"),
    ("replays/new", "to=x", "&#39;to&#39; must be"),
    ("results", "cursor=x", "cursor"),
    ("alerts", "state=x", "&#39;state&#39;"),
    ("batches", "cursor=x", "cursor"),
]


@pytest.mark.parametrize(("page", "query", "fault"), WRONG)
async def test_an_invalid_query_value_is_named_with_a_link_to_the_page_without_it(
    web: WebApp, page: str, query: str, fault: str
) -> None:
    answer = await send(web, "GET", f"/console/{page}?{query}", cookie=await session(web))

    assert answer.status_code == 400
    assert answer.headers["content-type"].startswith("text/html")
    assert fault in answer.text
    assert f'href="/console/{page}">Open this page without filters</a>' in answer.text
