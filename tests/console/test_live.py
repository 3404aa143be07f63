"""An open page follows the store, until the visitor pauses it."""

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from console.pages import log_in
from harness.browser import Watched, a_page
from harness.running_service import Receiver, a_config, a_kling, a_receiver, a_sink, a_webhook_route, submit_task
from playwright.async_api import Browser, Route, expect

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest_asyncio.fixture(loop_scope="session")
async def receiver(tmp_path: Path) -> AsyncIterator[Receiver]:
    """A whole receiver, with a simulated Kling and a webhook."""
    async with (
        a_kling(processing_for="1500ms") as kling,
        a_sink() as sink,
        a_receiver(tmp_path, a_config(kling.url, more=a_webhook_route(sink))) as receiver,
    ):
        yield receiver


@pytest_asyncio.fixture(loop_scope="session")
async def visitor(browser: Browser, receiver: Receiver) -> AsyncIterator[Watched]:
    """A visitor who is logged in."""
    async with a_page(browser, receiver.admin) as watched:
        await log_in(watched, receiver.token)
        yield watched


async def test_a_task_is_watched_live_to_its_delivery(visitor: Watched, receiver: Receiver) -> None:
    async with receiver.client() as client:
        task = await submit_task(client, label="watch me")
        await visitor.open(f"/console/tasks/{task['id']}")
        page = visitor.page
        await page.evaluate("window.stillHere = true")

        await expect(page.get_by_text("hook: attempt 1")).to_be_visible()

        await expect(page.locator("h1")).to_contain_text("succeed")
        assert await page.evaluate("window.stillHere")  # it was not loaded as a whole
        await expect(page.locator("#follow-state")).to_have_text("Live")


async def test_a_paused_page_stays_as_it_is(visitor: Watched, receiver: Receiver) -> None:
    await visitor.open("/console/tasks")
    page = visitor.page
    await expect(page.locator("#follow-state")).to_have_text("Live")
    await page.get_by_role("button", name="Pause").click()
    await expect(page.locator("#follow-state")).to_have_text("Paused")

    async with receiver.client() as client:
        await submit_task(client, label="while paused")
    await page.wait_for_timeout(2500)
    assert await page.get_by_text("while paused").count() == 0

    await page.get_by_role("button", name="Resume").click()
    await expect(page.get_by_text("while paused")).to_be_visible()


async def test_a_refresh_does_not_disturb_a_selection(visitor: Watched, receiver: Receiver) -> None:
    async with receiver.client() as client:
        await submit_task(client, label="first")
        await visitor.open("/console/tasks")
        page = visitor.page
        await page.get_by_role("checkbox", name=re.compile("^Select tsk")).check()
        await submit_task(client, label="second")
        await page.wait_for_timeout(2500)

        assert await page.get_by_text("second").count() == 0
        await page.get_by_role("checkbox", name=re.compile("^Select tsk")).uncheck()
        await page.locator("h1").click()
        await expect(page.get_by_text("second")).to_be_visible()


async def test_a_refresh_that_comes_late_does_not_disturb_a_selection(visitor: Watched, receiver: Receiver) -> None:
    page, has_begun, may_answer = visitor.page, asyncio.Event(), asyncio.Event()

    async def hold_refresh(route: Route) -> None:
        if "hx-request" in route.request.headers:
            has_begun.set()
            await may_answer.wait()
        await route.continue_()

    async with receiver.client() as client:
        await submit_task(client, label="first")
        await visitor.open("/console/tasks")
        await page.route("**/console/tasks", hold_refresh)
        await submit_task(client, label="second")
    await has_begun.wait()
    box = page.get_by_role("checkbox", name=re.compile("^Select tsk"))
    async with page.expect_response(lambda answer: "hx-request" in answer.request.headers) as answering:
        await box.check()
        may_answer.set()
    await (await answering.value).finished()
    await page.wait_for_timeout(500)

    assert await page.get_by_text("second").count() == 0
    assert await box.is_checked()


async def test_a_page_goes_live_although_an_extension_is_loaded_late(visitor: Watched) -> None:
    async def send_late(route: Route) -> None:
        await asyncio.sleep(0.5)
        await route.continue_()

    await visitor.page.route("**/hx-sse.min.js", send_late)

    await visitor.open("/console/tasks")

    await expect(visitor.page.locator("#follow-state")).to_have_text("Live")


async def test_a_page_shows_that_the_service_is_down_and_reconnects(visitor: Watched, receiver: Receiver) -> None:
    page = visitor.page
    await visitor.open("/console")
    await expect(page.locator("#follow-state")).to_have_text("Live")

    receiver.kill()
    await expect(page.locator("#follow-state")).to_have_text("Connecting")

    await receiver.start()
    await expect(page.locator("#follow-state")).to_have_text("Live")  # in the session of before
    visitor.complaints.clear()  # the browser's words for requests that failed
