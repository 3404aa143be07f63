"""One browser for all tests of the console, on one event loop, and a receiver for each test."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from harness.browser import Watched, a_browser, a_page
from harness.listeners import serving
from harness.web_app import WebApp, a_web_app
from playwright.async_api import Browser


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the tests of this folder five minutes: on a busy machine a browser takes a minute for what takes 3 s."""
    for item in items:
        if item.path.parent == Path(__file__).parent and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(300))


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    """The browser."""
    async with a_browser() as browser:
        yield browser


@pytest_asyncio.fixture(loop_scope="session")
async def web(tmp_path: Path) -> AsyncIterator[WebApp]:
    """The web layer of a receiver."""
    async with serving(asyncio.Event()) as serve, a_web_app(serve, tmp_path) as web:
        yield web


@pytest_asyncio.fixture(loop_scope="session")
async def visitor(browser: Browser, web: WebApp) -> AsyncIterator[Watched]:
    """A browser that is not logged in."""
    async with a_page(browser, f"http://{web.admin}") as watched:
        yield watched
