"""A visitor takes something along: a copied command, a bookmark, another tab, the way back."""

import pytest
from console.pages import fill, log_in
from harness.browser import Watched, a_page
from harness.web_app import WebApp
from playwright.async_api import Browser, expect

pytestmark = pytest.mark.asyncio(loop_scope="session")

PLAIN_HTTP = "Object.defineProperty(window, 'isSecureContext', { value: false })"


async def copied_command(visitor: Watched, path: str) -> tuple[str, str]:
    """Copy a task's command. Return it, and what the browser pastes afterwards."""
    page = visitor.page
    await visitor.open(path)
    command = await page.locator("#curl").inner_text()
    await page.locator("[data-copy=curl]").click()
    await expect(page.locator("[data-copy=curl]")).to_have_text("Copied")
    await visitor.open("/console/tasks")
    await page.locator("input[name=q]").focus()
    await page.keyboard.press("Control+V")
    return command, await page.locator("input[name=q]").input_value()


@pytest.mark.parametrize("script", ["", PLAIN_HTTP], ids=["a safe origin", "plain http"])
async def test_a_command_is_copied(browser: Browser, web: WebApp, script: str) -> None:
    task = (await fill(web))["task"]
    permissions = [] if script else ["clipboard-read", "clipboard-write"]
    async with a_page(browser, f"http://{web.admin}", permissions=permissions) as visitor:
        await visitor.page.add_init_script(script)
        await log_in(visitor)
        command, pasted = await copied_command(visitor, task)

    assert command.startswith("curl ")
    assert pasted.split() == command.split()


async def test_a_filter_survives_a_bookmark_a_new_tab_and_the_back_button(browser: Browser, web: WebApp) -> None:
    await fill(web)
    async with a_page(browser, f"http://{web.admin}") as visitor:
        page = visitor.page
        await log_in(visitor)
        await visitor.open("/console/tasks")
        await page.locator("select[name=state]").select_option("succeed")
        await page.get_by_role("button", name="Show").click()
        await page.wait_for_url("**/console/tasks?*state=succeed*")
        rows = await page.locator("tbody tr").count()
        other = await page.context.new_page()
        await other.goto(page.url)
        await page.locator("tbody a").first.click()
        await page.wait_for_url("**/console/tasks/tsk_*")
        await page.go_back()

        assert rows >= 1
        for each in (page, other):
            await expect(each.locator("select[name=state]")).to_have_value("succeed")
            assert await each.locator("tbody tr").count() == rows
