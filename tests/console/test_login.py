"""How a person gets into the console, and how not."""

import pytest
from console.pages import fill_in_login
from harness.browser import Watched
from harness.web_app import READ_TOKEN, TOKEN, WebApp

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_a_page_without_a_session_redirects_to_the_login_and_back(visitor: Watched) -> None:
    await visitor.open("/console/tasks?state=failed")
    await visitor.page.get_by_label("Admin token").fill(TOKEN)
    await visitor.page.keyboard.press("Enter")
    await visitor.page.wait_for_url(lambda url: "/login" not in url)

    assert visitor.page.url == f"{visitor.origin}/console/tasks?state=failed"


async def test_a_one_time_link_logs_in_once(visitor: Watched, web: WebApp) -> None:
    link = (await web.client.post("/api/console/links")).json()

    await visitor.open(link["path"])
    assert await visitor.page.title() == "Now · Kling Receiver"

    await visitor.page.goto("about:blank")  # the page would go to the login itself, at its next refresh
    await visitor.page.context.clear_cookies()
    await visitor.page.goto(visitor.origin + link["path"])
    assert "works once" in await visitor.page.inner_text("main")
    visitor.complaints.clear()


async def test_a_reader_sees_that_it_cannot_act(visitor: Watched) -> None:
    await fill_in_login(visitor, READ_TOKEN)

    assert "read only" in await visitor.page.inner_text("header")
