"""A real browser for tests of the console: Debian's Chromium, driven by Playwright."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Page, Request, async_playwright, expect

CHROMIUM = "/usr/bin/chromium"
_TIMEOUT_MS = 60_000  # a busy machine takes long
_ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--force-prefers-reduced-motion",
)

_unused_contexts: WeakKeyDictionary[Browser, dict[str, list[BrowserContext]]] = WeakKeyDictionary()

expect.set_options(timeout=_TIMEOUT_MS)


@contextlib.asynccontextmanager
async def a_browser() -> AsyncIterator[Browser]:
    """Start a browser."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=list(_ARGUMENTS))
        yield browser
        await browser.close()


@dataclass(kw_only=True)
class Watched:
    """A browser's page, and what must not happen in it: requests to other hosts, and messages on its console."""

    page: Page
    origin: str
    foreign: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    async def open(self, path: str) -> None:
        """Open a page of the console."""
        await self.page.goto(self.origin + path, wait_until="load")

    def see_request(self, request: Request) -> None:
        """Record a request to another host."""
        if not request.url.startswith((self.origin, "data:", "blob:", "about:")):
            self.foreign.append(request.url)

    def record(self, message: ConsoleMessage) -> None:
        """Record a message on the browser's console, except hints for developers."""
        if message.type not in ("verbose", "debug"):
            self.complaints.append(f"{message.type}: {message.text} {message.location['url']}")


@contextlib.asynccontextmanager
async def a_page(browser: Browser, origin: str, **options: Any) -> AsyncIterator[Watched]:
    """Open a page without cookies. At the end it has sent nothing to another host, and has no error on its console."""
    async with _a_context(browser, {"reduced_motion": "reduce", **options}) as context:
        page = await context.new_page()
        watched = Watched(page=page, origin=origin)
        context.on("request", watched.see_request)
        page.on("console", watched.record)
        page.on("pageerror", lambda error: watched.complaints.append(f"error: {error}"))
        page.set_default_timeout(_TIMEOUT_MS)
        yield watched
        context.remove_listener("request", watched.see_request)
        assert watched.foreign == []
        assert watched.complaints == []


@contextlib.asynccontextmanager
async def _a_context(browser: Browser, options: dict[str, Any]) -> AsyncIterator[BrowserContext]:
    """Lend a context without pages and cookies. A new one costs a second of CPU, so the next test gets the same one.

    A context whose test has failed is closed.
    """
    unused = _unused_contexts.setdefault(browser, {}).setdefault(repr(options), [])
    context = unused.pop() if unused else await browser.new_context(**options)
    try:
        yield context
    except BaseException:
        await context.close()
        raise
    for page in context.pages:
        await page.close()
    await context.clear_cookies()
    unused.append(context)
