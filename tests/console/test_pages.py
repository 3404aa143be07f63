"""Every page in a real browser: both colour schemes, both widths, with and without scripts, and with hostile texts."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
import pytest_asyncio
from axe_playwright_python.base import AXE_FILE_PATH
from console.pages import HOSTILE, add_results, fill, fill_in_login, log_in
from harness.browser import a_page
from harness.listeners import serving
from harness.web_app import READ_TOKEN, WebApp, a_web_app
from playwright.async_api import Browser, Page

from receiver.web.console.navigation import NAVIGATION

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(300)]

WIDTHS = (360, 1280)
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
AXE_OPTIONS = {"resultTypes": ["violations"], "preload": False}  # a page loads nothing that axe would have to fetch
SEE_FOCUS = """() => {
    window.seen = [];
    const outlined = each => each && getComputedStyle(each).outlineStyle == "solid";
    document.addEventListener("focusin", ({target}) =>
        seen.push([target.outerHTML, outlined(target) || outlined(target.closest(".figures > div"))]));
}"""
TABS_OF_A_CONTROL = 8  # the parts of a time and its calendar, the buttons of a player
REACHABLE = """() =>
    [...document.querySelectorAll("a[href], button, input, select, textarea, summary, video, [tabindex]")]
    .filter(each => each.checkVisibility() && !each.disabled && each.type != "hidden" && each.tabIndex >= 0)"""
MISSED = f"() => ({REACHABLE})().map(each => each.outerHTML).filter(each => !seen.some(([it]) => it == each))"
UNSEEN = "() => seen.filter(([, outlined]) => !outlined).map(([it]) => it)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A service with something on each page, and the addresses of the pages."""

    web: WebApp
    paths: Mapping[str, str]

    @property
    def origin(self) -> str:
        """Where the console is."""
        return f"http://{self.web.admin}"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def shown(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shown]:
    """One service for all tests that only look."""
    folder = tmp_path_factory.mktemp("shown")
    async with serving(asyncio.Event()) as serve, a_web_app(serve, folder) as web:
        await add_results(web, folder / "results")
        yield Shown(web=web, paths=await fill(web))


async def violations(page: Page) -> list[str]:
    """Return what axe finds on the open page: in both schemes and widths, and whether it is wider than the window."""
    await page.evaluate(AXE_FILE_PATH.read_text())
    found = []
    for width in WIDTHS:
        await page.set_viewport_size({"width": width, "height": 800})
        for scheme in SCHEMES:
            await page.emulate_media(color_scheme=scheme)
            violated = await page.evaluate("async options => (await axe.run(options)).violations", AXE_OPTIONS)
            found += [f"{scheme} {width} {each['id']}: {each['nodes'][0]['html']}" for each in violated]
        if await page.evaluate("document.documentElement.scrollWidth > innerWidth"):
            found.append(f"wider than {width}")
    return found


async def test_these_tests_visit_every_page_of_the_menu(shown: Shown) -> None:
    assert {item.path for item in NAVIGATION} <= {path.partition("?")[0] for path in shown.paths.values()}


async def test_every_page_is_accessible_in_each_scheme_and_width(browser: Browser, shown: Shown) -> None:
    found: dict[str, list[str]] = {}

    async def look_at(pages: list[tuple[str, str]]) -> None:
        async with a_page(browser, shown.origin) as visitor:
            await log_in(visitor)
            for name, path in pages:
                await visitor.open(path)
                found[name] = await violations(visitor.page)

    async with a_page(browser, shown.origin) as visitor:
        await visitor.open("/console/login")
        found["login"] = await violations(visitor.page)
    pages = list(shown.paths.items())
    await asyncio.gather(look_at(pages[::2]), look_at(pages[1::2]))  # a browser uses a process for each

    assert len(found) == len(pages) + 1
    assert {name: each for name, each in found.items() if each} == {}


async def test_every_page_is_usable_without_javascript(browser: Browser, shown: Shown) -> None:
    async with a_page(browser, shown.origin, java_script_enabled=False) as visitor:
        await fill_in_login(visitor)
        for path in shown.paths.values():
            await visitor.open(path)
            assert await visitor.page.locator("main h1").count() == 1, path
        await visitor.open("/console")
        for item in await visitor.page.locator("nav.menu a").all_inner_texts():
            await visitor.page.get_by_role("navigation", name="Pages").get_by_role("link", name=item).click()
            assert await visitor.page.locator("nav.menu a[aria-current=page]").inner_text() == item


async def test_untrusted_text_is_escaped_on_every_page(browser: Browser, web: WebApp, tmp_path: Path) -> None:
    await add_results(web, tmp_path / "results", text=HOSTILE)
    paths = await fill(web, text=HOSTILE)
    async with a_page(browser, f"http://{web.admin}") as visitor:
        visitor.page.on("dialog", lambda dialog: visitor.complaints.append(dialog.message))
        await log_in(visitor, name=HOSTILE[:64])
        for path in paths.values():
            await visitor.open(path)
            page = visitor.page
            strange = "main img[src=x], main script, main svg[onload], main [onerror], main a[href^=javascript]"
            assert await page.locator(strange).count() == 0, path
            assert "49javascript" not in await page.inner_text("body"), path
        shown = await visitor.page.evaluate("document.scripts.length")

    assert shown == 3  # htmx, its extension and our own


async def test_no_secret_is_on_a_page(browser: Browser, shown: Shown) -> None:
    async with a_page(browser, shown.origin) as visitor:
        await log_in(visitor)
        for path in shown.paths.values():
            html = await (await visitor.page.request.get(shown.origin + path)).text()
            for secret in ("hidden-in", "kling-key", "the-admin-token", READ_TOKEN, "whsec_"):
                assert secret not in html, (path, secret)


async def test_every_control_of_every_page_is_reachable_by_keyboard(browser: Browser, shown: Shown) -> None:
    async with a_page(browser, shown.origin) as visitor:
        await log_in(visitor)
        page, found = visitor.page, {}
        for name, path in shown.paths.items():
            await visitor.open(path)
            await page.evaluate(SEE_FOCUS)
            with_parts = await page.locator("input[type=datetime-local], video").count()
            for _ in range(await page.evaluate(f"({REACHABLE})().length") + with_parts * TABS_OF_A_CONTROL):
                await page.keyboard.press("Tab")
            found[name] = await page.evaluate(MISSED) + await page.evaluate(UNSEEN)

    assert {name: each for name, each in found.items() if each} == {}


async def test_a_task_and_its_details_can_be_opened_by_keyboard(browser: Browser, shown: Shown) -> None:
    paths = shown.paths
    async with a_page(browser, shown.origin) as visitor:
        await log_in(visitor)
        await visitor.open(paths["tasks"])
        page = visitor.page
        await page.keyboard.press("Tab")
        assert await page.evaluate("document.activeElement.className") == "skip"
        await page.keyboard.press("Enter")
        for _ in range(40):
            await page.keyboard.press("Tab")
            if await page.evaluate("document.activeElement.getAttribute('href')") == paths["task"]:
                break
        outline = await page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        await page.keyboard.press("Enter")
        await page.wait_for_url(f"**{paths['task']}")
        assert outline == "solid"
        await page.locator(".story a").first.focus()
        await page.keyboard.press("Enter")
        await page.wait_for_url("**?bar=*")
        assert await page.locator("#detail").count() == 1
        await page.go_back()
        assert await page.locator("#detail").count() == 0


async def test_a_page_of_the_manual_links_to_the_others(browser: Browser, shown: Shown) -> None:
    async with a_page(browser, shown.origin) as visitor:
        await log_in(visitor)
        await visitor.open("/console/manual")
        subjects = await visitor.page.locator(".subjects a").all()
        hrefs = {await each.get_attribute("href") for each in subjects}
        for href in sorted(each for each in hrefs if each):
            await visitor.open(href)
            inner = await visitor.page.locator("article a[href^='/console/manual/']").evaluate_all(
                "links => links.map(link => link.getAttribute('href').split('#')[0])"
            )
            assert set(inner) <= hrefs, href


async def test_the_pictures_of_the_manual_are_shown(browser: Browser, shown: Shown) -> None:
    async with a_page(browser, shown.origin) as visitor:
        await log_in(visitor)
        await visitor.open("/console/manual/console")
        widths = await visitor.page.locator("article img").evaluate_all("all => all.map(each => each.naturalWidth)")
        missing = await visitor.page.request.get(f"{visitor.origin}/console/manual/images/../console.md")
        unknown = await visitor.page.request.get(f"{visitor.origin}/console/manual/images/x.webp")

    assert widths == [960] * 6
    assert (missing.status, unknown.status) == (404, 404)
