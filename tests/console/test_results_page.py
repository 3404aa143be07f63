"""Results in a real browser: seen, filtered and harmless, whatever the files are."""

from datetime import timedelta
from pathlib import Path

import pytest
from console.pages import HOSTILE, log_in
from console.test_pages import violations
from harness.browser import Watched, a_page
from harness.finished_tasks import File, a_finished_task
from harness.waiting import wait_until
from harness.web_app import WebApp
from playwright.async_api import Browser

from receiver.kling.simulator.results import content

pytestmark = pytest.mark.asyncio(loop_scope="session")

PAGE = "/console/results"
SCRIPT = b"<!doctype html><script>document.title = 'ran'; fetch('/api/tasks')</script>"
SVG = b"<svg xmlns='http://www.w3.org/2000/svg' onload='document.title = \"ran\"'/>"
GIF = b"GIF89a/*" + bytes(6) + b"*/=1;document.title='ran';//"


def a_picture(name: str) -> File:
    return content(name, "image-0.png"), "image/png"


def a_video() -> File:
    return content("film", "video-0.mp4"), "video/mp4"


async def finish(web: WebApp, folder: Path, *files: File | None, **details: str) -> str:
    return await a_finished_task(
        web.store,
        web.ids,
        folder / "results",
        *files,
        at=web.clock.now(),
        label=details.get("label"),
        batch=details.get("batch"),
        tags={"project": details["project"]} if "project" in details else None,
    )


async def wait_for(visitor: Watched, condition: str) -> None:
    """Wait for a condition in the page, whose policy forbids to evaluate text there by itself."""

    async def holds() -> bool:
        return bool(await visitor.page.evaluate(condition))

    await wait_until(holds)


async def shown_labels(visitor: Watched) -> list[str]:
    return await visitor.page.locator(".gallery-title a").all_inner_texts()


async def test_pictures_and_videos_are_loaded_from_this_service(browser: Browser, web: WebApp, tmp_path: Path) -> None:
    await finish(web, tmp_path, a_picture("a"), a_picture("b"), label="two pictures")
    await finish(web, tmp_path, a_video(), label="a film")
    await finish(web, tmp_path, None, label="at Kling")
    async with a_page(browser, f"http://{web.admin}") as visitor:  # no request to another host, checked at its end
        await log_in(visitor)
        await visitor.open(PAGE)
        await wait_for(visitor, "[...document.querySelectorAll('main img')].every(each => each.naturalWidth == 320)")
        await wait_for(visitor, "document.querySelector('main video').readyState >= 1")

        assert await visitor.page.locator("main img").count() == 2
        assert await visitor.page.evaluate("document.querySelector('main video').duration") == 2
        link = visitor.page.get_by_role("link", name="Open at Kling")
        assert (await link.get_attribute("href") or "").startswith("https://cdn.example.com/")
        assert await visitor.page.get_by_text("expires at Kling in 30 d").count() == 1


async def test_filter_and_paging_are_usable_without_javascript(browser: Browser, web: WebApp, tmp_path: Path) -> None:
    await finish(web, tmp_path, a_picture("a"), label="old", batch="spring", project="ads")
    web.clock.advance(timedelta(days=1))
    for number in range(50):
        await finish(web, tmp_path, None, label=f"new {number}")
    async with a_page(browser, f"http://{web.admin}", java_script_enabled=False) as visitor:
        await log_in(visitor)
        await visitor.open(PAGE)
        assert (await shown_labels(visitor))[0] == "new 49"
        await visitor.page.get_by_role("link", name="Next page").click()
        assert await shown_labels(visitor) == ["new 1", "new 0", "old"]
        await visitor.page.get_by_label("Tag").fill("project:ads")
        await visitor.page.get_by_role("button", name="Show").click()
        assert await shown_labels(visitor) == ["old"]
        await visitor.page.get_by_role("checkbox", name="Select old").check()
        async with visitor.page.expect_download() as download:
            await visitor.page.get_by_role("button", name="Download the selected").click()
        assert (await download.value).suggested_filename == "results-selected.zip"


async def test_a_hostile_file_runs_no_script(browser: Browser, web: WebApp, tmp_path: Path) -> None:
    files: list[File] = [(SCRIPT, "image/png"), (SVG, "image/png"), (GIF, "image/gif"), (SCRIPT, "video/mp4")]
    task = await finish(web, tmp_path, *files, label="hostile")
    async with a_page(browser, f"http://{web.admin}") as visitor:
        await log_in(visitor)
        await visitor.open(PAGE)
        await wait_for(visitor, "[...document.querySelectorAll('main img')].every(each => each.complete)")
        for name in ("0.png", "1.png", "2.gif", "3.mp4"):
            await visitor.page.goto(f"{visitor.origin}/results/{task}/{name}")
            assert await visitor.page.title() != "ran", name
            assert await visitor.page.evaluate("document.contentType") != "text/html" or name == "3.mp4"
        await visitor.open(PAGE)
        for name in ("0.png", "2.gif"):  # as a script of a page of ours
            await visitor.page.evaluate(
                """address => new Promise(done => {
                    const script = document.createElement("script");
                    script.src = address;
                    script.onload = script.onerror = done;
                    document.head.append(script);
                })""",
                f"/results/{task}/{name}",
            )
        assert await visitor.page.title() != "ran"
        refused = [each for each in visitor.complaints if "MIME type" in each or "Refused" in each]
        assert len(refused) >= 2
        visitor.complaints.clear()


@pytest.mark.parametrize("type_", ["image/svg+xml", "text/html", "application/octet-stream"])
async def test_other_files_can_only_be_downloaded(browser: Browser, web: WebApp, tmp_path: Path, type_: str) -> None:
    await finish(web, tmp_path, (SVG if "svg" in type_ else SCRIPT, type_), label="a document")
    async with a_page(browser, f"http://{web.admin}") as visitor:
        await log_in(visitor)
        await visitor.open(PAGE)
        async with visitor.page.expect_download() as download:
            await visitor.page.get_by_role("link", name="Download", exact=False).first.click()
        assert (await download.value).suggested_filename.endswith("0.bin")
        assert visitor.page.url.endswith(PAGE)


async def test_the_full_picture_and_the_video_open_under_their_policy(
    browser: Browser, web: WebApp, tmp_path: Path
) -> None:
    task = await finish(web, tmp_path, a_picture("a"), label="a")
    async with a_page(browser, f"http://{web.admin}") as visitor:
        await log_in(visitor)
        await visitor.page.goto(f"{visitor.origin}/results/{task}/0.png")
        assert await visitor.page.evaluate("document.images[0].naturalWidth") == 320
        visitor.complaints.clear()  # the browser's own page for a picture has a style that the policy refuses


async def test_the_results_page_is_accessible_and_escapes_untrusted_text(
    browser: Browser, web: WebApp, tmp_path: Path
) -> None:
    files = (a_picture("a"), a_video(), None)
    task = await finish(web, tmp_path, *files, label=HOSTILE[:200], batch="x", project=HOSTILE[:64])
    await finish(web, tmp_path, (b"broken", "image/png"), (b"sound", "audio/mpeg"), label="others")
    async with a_page(browser, f"http://{web.admin}") as visitor:
        visitor.page.on("dialog", lambda dialog: visitor.complaints.append(dialog.message))
        await log_in(visitor)
        for path in (PAGE, "/console/submit", "/console", f"/console/tasks/{task}"):
            await visitor.open(path)
            assert await violations(visitor.page) == [], path
            assert await visitor.page.locator("main script, main [onerror], main img[src=x]").count() == 0
