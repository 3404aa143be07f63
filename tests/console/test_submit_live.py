"""A job from the form to its thumbnail, watched live: the real service and a simulated Kling."""

import re
from pathlib import Path

import pytest
from console.pages import fill_in_login
from harness.browser import a_page
from harness.running_service import a_config, a_kling, a_receiver
from harness.waiting import wait_until
from playwright.async_api import Browser

from receiver.kling.simulator.results import content

pytestmark = pytest.mark.asyncio(loop_scope="session")

CONFIG = """
[archive]
dir = "results"
[network]
allow = ["127.0.0.1"]
"""


async def test_a_job_is_submitted_by_the_form_and_watched_until_its_thumbnail(browser: Browser, tmp_path: Path) -> None:
    picture = tmp_path / "mine.png"
    picture.write_bytes(content("mine", "image-0.png"))
    async with (
        a_kling(processing_for="2s") as kling,
        a_receiver(tmp_path, a_config(kling.url, more=CONFIG)) as receiver,
        a_page(browser, receiver.admin) as visitor,
    ):
        page = visitor.page
        await fill_in_login(visitor, receiver.token)
        await page.get_by_role("navigation", name="Pages").get_by_role("link", name="Submit").click()
        await page.get_by_label("Pictures", exact=False).first.set_input_files(picture)
        await page.get_by_label("Prompt", exact=True).fill("a lighthouse at dusk")
        await page.get_by_label("How many pictures").fill("2")
        await page.get_by_label("Label", exact=True).fill("Lighthouse")
        await page.get_by_role("button", name="Submit", exact=True).click()
        await page.wait_for_url(re.compile(r"/console/tasks/tsk_"))

        await page.locator("h1 .chip", has_text="succeed").wait_for()  # by itself: nothing is reloaded here
        await page.locator("#results-title").wait_for()

        async def are_drawn() -> bool:
            widths = "[...document.querySelectorAll('.tile img')].map(each => each.naturalWidth)"
            return bool(await page.evaluate(widths) == [320, 320])

        await wait_until(are_drawn)
        sources = await page.locator(".tile img").evaluate_all("all => all.map(each => each.getAttribute('src'))")
        assert all(re.fullmatch(r"/results/tsk_\w+/[01]\.preview\.webp", source) for source in sources)
        await visitor.open("/console")
        assert await page.locator(".sheet .picture img").count() == 1
        await visitor.open("/console/results")
        assert await page.locator(".gallery-title a").all_inner_texts() == ["Lighthouse"]
