"""What an operator does in the console, in a real browser, and what a reader cannot do."""

import re
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from console.pages import all_routes, fill, log_in
from harness.browser import Watched, a_page
from harness.factories import a_task
from harness.http_client import plain_http
from harness.web_app import READ_TOKEN, WebApp
from playwright.async_api import Browser, expect

from receiver.domain.model import DeliveryStatus, TaskState
from receiver.web.console.gate import LOGIN, is_browser_path

pytestmark = pytest.mark.asyncio(loop_scope="session")

PUBLIC = (LOGIN, "/console/logout")


@pytest_asyncio.fixture(loop_scope="session", params=[True, False], ids=["scripts", "no scripts"])
async def anna(request: pytest.FixtureRequest, browser: Browser, web: WebApp) -> AsyncIterator[Watched]:
    """Anna is logged in, with and without JavaScript."""
    async with a_page(browser, f"http://{web.admin}", java_script_enabled=request.param) as visitor:
        await log_in(visitor, name="anna")
        yield visitor


async def audit(web: WebApp) -> list[tuple[str, str, str]]:
    """Return who did what and why, newest first."""
    return [(each.actor, each.verb, each.reason) for each in await web.store.catalog.actions(limit=10)]


async def test_a_held_route_is_found_and_released(anna: Watched, web: WebApp) -> None:
    await fill(web)
    page = anna.page

    await anna.open("/console")
    await page.get_by_role("link", name="Route publish is held").click()
    await page.get_by_text("Release…").first.click()
    await page.get_by_label("Reason").first.fill("the destination is mended")
    await page.get_by_role("button", name="Release publish").click()

    await expect(page.get_by_text("Route publish delivers again.")).to_be_visible()
    assert not (await web.store.deliveries.route_states())["publish"].is_held
    assert ("anna", "route.released", "the destination is mended") in await audit(web)
    await anna.open("/console")
    assert await page.get_by_role("link", name="Route publish is held").count() == 0


async def test_a_route_is_held(anna: Watched, web: WebApp) -> None:
    await anna.open("/console/routes")
    await anna.page.get_by_text("Hold…").click()
    await anna.page.get_by_role("button", name="Hold publish").click()

    await expect(anna.page.get_by_text("held by operator")).to_be_visible()
    assert (await web.store.deliveries.route_states())["publish"].is_held


async def test_a_test_of_a_route_shows_the_answer(anna: Watched, web: WebApp) -> None:
    await anna.open("/console/routes")
    await anna.page.get_by_role("button", name="Send a test").click()

    await expect(anna.page.get_by_role("heading", name="Test of publish")).to_be_visible()
    assert len(web.sink.requests) == 1


async def test_a_dead_delivery_is_replayed(anna: Watched, web: WebApp) -> None:
    await fill(web)
    page = anna.page

    await anna.open("/console")
    await page.get_by_role("link", name="1 delivery is dead").click()
    await page.get_by_role("row").nth(1).get_by_role("checkbox").check()
    await page.get_by_role("button", name="Replay…").click()
    await page.get_by_label("Deliver to another route").fill("publish")
    await page.get_by_role("button", name="Preview").click()
    await page.get_by_label("Reason").fill("mended")
    await page.get_by_role("button", name="Deliver 1 again").click()

    await expect(page.get_by_text("The replay of 1 delivery has started.")).to_be_visible()
    (replay,) = (await web.client.get("/api/replays")).json()["items"]
    assert (replay["total"], replay["actor"], replay["why"]) == (1, "anna", "mended")


async def test_one_delivery_is_retried(anna: Watched, web: WebApp) -> None:
    await fill(web)
    (pending,) = (await web.store.catalog.deliveries(statuses=[DeliveryStatus.PENDING])).items

    await anna.open(f"/console/deliveries/{pending.delivery.id}")
    await anna.page.get_by_role("button", name="Retry now").click()

    await expect(anna.page.get_by_text("The delivery is due now.")).to_be_visible()
    assert ("anna", "delivery.retried", "") in await audit(web)


async def test_many_tasks_are_cancelled_with_a_preview(anna: Watched, web: WebApp) -> None:
    for number in range(3):
        state = TaskState.PROCESSING if number == 0 else TaskState.QUEUED
        await web.store.tasks.add(a_task(id=web.ids.new("tsk"), state=state, external_task_id=str(number)), b"{}")

    await anna.open("/console/tasks")
    for box in await anna.page.locator("tbody input[type=checkbox]").all():
        await box.check()
    await anna.page.get_by_role("button", name="Cancel").click()
    assert "1 of the selected tasks stay" in await anna.page.inner_text("main")
    await anna.page.get_by_label("Reason").fill("not needed")
    await anna.page.get_by_role("button", name="Cancel 2 tasks").click()

    await expect(anna.page.get_by_text("2 tasks cancelled.")).to_be_visible()
    assert await web.store.catalog.counts() == {"processing": 1, "cancelled": 2}
    await anna.open("/console/tasks?state=cancelled")
    assert await anna.page.locator("tbody td[data-label=State]").all_inner_texts() == ["cancelled", "cancelled"]
    assert ("anna", "task.cancelled", "not needed") in await audit(web)


async def test_a_failed_task_is_submitted_again(anna: Watched, web: WebApp) -> None:
    failed = a_task(id=web.ids.new("tsk"), state=TaskState.FAILED, endpoint="images/generations", due_at=None)
    await web.store.tasks.add(failed, b'{"prompt": "a cat"}')

    await anna.open(f"/console/tasks/{failed.id}")
    await anna.page.get_by_role("button", name="Submit again").click()

    await expect(anna.page.get_by_text(f"This is the new task for {failed.id}.")).to_be_visible()
    (new,) = (await web.store.catalog.tasks(tags={"retry_of": failed.id})).items
    assert anna.page.url.endswith(new.id)


async def test_a_batch_is_closed(anna: Watched, web: WebApp) -> None:
    await fill(web)
    await anna.open("/console/batches/spring")
    await anna.page.get_by_role("button", name="Close the batch").click()

    await expect(anna.page.get_by_text("The batch is closed.")).to_be_visible()


async def test_an_alert_is_acknowledged_with_a_note(anna: Watched, web: WebApp) -> None:
    await web.client.post("/api/routes/publish/hold", json={"why": "maintenance"})
    await anna.open("/console/alerts")
    await anna.page.get_by_text("Acknowledge…").click()
    await anna.page.get_by_label("Note").fill("I am on it")
    await anna.page.get_by_role("button", name="Acknowledge route held").click()

    await expect(anna.page.get_by_text("I am on it")).to_be_visible()
    (alert,) = (await web.client.get("/api/alerts")).json()["items"]
    assert alert["state"] == "acknowledged"


async def test_costs_are_downloaded_as_csv(anna: Watched, web: WebApp) -> None:
    await fill(web, text="=cmd")
    await anna.open("/console/costs?by=label")
    async with anna.page.expect_download() as waiting:
        await anna.page.get_by_role("link", name="Download as CSV").click()
    path = await (await waiting.value).path()

    assert path.read_text().splitlines() == ["label,tasks,'=cmd,units", "'=cmd,1,1.5,2"]


async def test_a_reader_may_not_act(web: WebApp) -> None:
    await fill(web)
    before = await audit(web)
    origin = {"origin": f"http://{web.admin}", "sec-fetch-site": "same-origin"}
    async with plain_http(base_url=f"http://{web.admin}") as client:
        answer = await client.post(LOGIN, data={"token": READ_TOKEN}, headers=origin)
        cookie = {"cookie": answer.headers["set-cookie"].partition(";")[0]}
        actions = [
            route.path for route in all_routes(web) if is_browser_path(route.path) and "POST" in (route.methods or ())
        ]
        for path in actions:
            if path not in PUBLIC:
                address = re.sub(r"\{(\w+)(:path)?\}", "publish", path)
                refused = await client.post(address, data={"id": "x", "do": "cancel"}, headers=origin | cookie)
                assert refused.status_code == 403, path
                assert "read token" in refused.text

    assert len(actions) > 10
    assert await audit(web) == before
    assert web.sink.requests == []


async def test_a_reader_sees_no_button_that_acts(browser: Browser, web: WebApp) -> None:
    paths = await fill(web)
    async with a_page(browser, f"http://{web.admin}") as visitor:
        await log_in(visitor, READ_TOKEN)
        for path in paths.values():
            await visitor.open(path)
            assert await visitor.page.locator("main form[method=post]").count() == 0, path


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
async def test_a_form_of_another_site_changes_nothing(browser: Browser, web: WebApp, host: str) -> None:
    async with a_page(browser, f"http://{web.admin}") as visitor:
        await log_in(visitor)
        other = f"http://{host}:{web.public.port}/evil"  # another port is another origin, and the browser sends cookies
        await visitor.page.route(other, lambda route: route.fulfill(body=EVIL, content_type="text/html"))
        visitor.origin = "http://"
        await visitor.page.goto(other)
        await visitor.page.evaluate(f"document.forms[0].action = 'http://{web.admin}/console/routes/publish/hold'")
        await visitor.page.get_by_role("button").click()
        await visitor.page.wait_for_url(lambda url: "/console" in url)
        text = await visitor.page.inner_text("main")
        visitor.complaints.clear()  # the browser's word for a 403

    assert ("Another site sent this form" in text) == (host == "127.0.0.1")
    assert await web.store.deliveries.route_states() == {}


async def test_another_site_cannot_frame_the_console(browser: Browser, web: WebApp) -> None:
    async with a_page(browser, f"http://{web.admin}") as visitor:
        await log_in(visitor)
        page = f"<iframe src='http://{web.admin}/console'></iframe>"
        other = f"http://localhost:{web.admin.port}/frame"
        await visitor.page.route(other, lambda route: route.fulfill(body=page, content_type="text/html"))
        visitor.origin = "http://"
        await visitor.page.goto(other)
        await visitor.page.wait_for_timeout(300)
        shown = [await frame.title() for frame in visitor.page.frames[1:]]
        visitor.complaints.clear()  # the browser says that it refused the frame

    assert "Now · Kling Receiver" not in shown


EVIL = "<form method='post'><button>win</button></form>"
