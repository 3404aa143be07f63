"""`make screenshots`: every page of the console, with a day's work of the simulator, as pictures in var/screenshots.

Its folder ``manual`` has the pictures of the manual, for ``receiver/docs/images``.
"""

import asyncio
import sys
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from harness.browser import a_browser, a_page
from harness.running_service import ENDPOINT, Receiver
from harness.showcase import a_showcase
from harness.waiting import wait_until
from PIL import Image
from playwright.async_api import Page

FOLDER = Path(__file__).parents[2] / "var" / "screenshots"
VIEWS: Mapping[str, Mapping[str, Any]] = {
    "light": {"color_scheme": "light", "viewport": {"width": 1280, "height": 800}},
    "dark": {"color_scheme": "dark", "viewport": {"width": 1280, "height": 800}},
    "phone": {"color_scheme": "light", "viewport": {"width": 360, "height": 740}},
}
PAGES = {
    "alerts": "/console/alerts",
    "attempts": "/console/attempts",
    "batch": "/console/batches/campaign-1",
    "batches": "/console/batches",
    "configuration": "/console/configuration",
    "costs": "/console/costs",
    "deliveries": "/console/deliveries",
    "dead": "/console/deliveries?status=dead",
    "events": "/console/events",
    "manual": "/console/manual/routes",
    "now": "/console",
    "replay": "/console/replays/new?status=dead",
    "results": "/console/results",
    "routes": "/console/routes",
    "submit": "/console/submit",
    "tasks": "/console/tasks",
}
MOST_PIXELS = 1600  # in height: a long list repeats itself
IN_THE_MANUAL = ("now", "results", "routes", "submit", "task", "tasks")
_LOAD_MEDIA = """
Promise.race([
  new Promise(done => setTimeout(done, 10000)),
  Promise.all([...document.querySelectorAll("img, video")].map(each => {
    if (each.tagName === "IMG") { each.loading = "eager"; return each.decode().catch(() => null); }
    return each.readyState > 1 ? null : new Promise(done => each.addEventListener("loadeddata", done));
  })),
])
"""


async def take_all() -> None:
    """Take the pictures."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        async with a_showcase(Path(folder)) as receiver, a_browser() as browser:
            await wait_until(partial(_has_thumbnails, Path(folder) / "results"), seconds=300, interval=1)
            for name, options in VIEWS.items():
                async with a_page(browser, receiver.admin, **options) as visitor:
                    await visitor.open("/console/login")
                    await take(visitor.page, f"login-{name}")
                    await _log_in(visitor.page, receiver)
                    for page, path in {**PAGES, **await _chosen(visitor.page, receiver)}.items():
                        await visitor.open(path)
                        await take(visitor.page, f"{page}-{name}")
    _make_manual_pictures()


def _has_thumbnails(results: Path) -> bool:
    pictures = [each for each in results.rglob("*.png") if ".previews" not in each.parts]
    return sum(each.is_file() for each in (results / ".previews").rglob("*")) >= len(pictures)


async def take(page: Page, name: str) -> None:
    """Take a picture of the open page."""
    await page.evaluate(_LOAD_MEDIA)
    await page.wait_for_timeout(300)
    height = await page.evaluate("document.documentElement.scrollHeight")
    width = (page.viewport_size or {"width": 1280})["width"]
    clip: Any = {"x": 0, "y": 0, "width": width, "height": min(height, MOST_PIXELS)}
    await page.screenshot(path=FOLDER / f"{name}.png", full_page=True, clip=clip)
    sys.stdout.write(f"{FOLDER / name}.png\n")


def _make_manual_pictures() -> None:
    (FOLDER / "manual").mkdir(exist_ok=True)
    for name in IN_THE_MANUAL:
        with Image.open(FOLDER / f"{name}-light.png") as picture:
            top = picture.convert("RGB").crop((0, 0, 1280, 860)).resize((960, 645), Image.Resampling.LANCZOS)
        top.save(FOLDER / "manual" / f"{name}.webp", quality=72, method=6)


async def _log_in(page: Page, receiver: Receiver) -> None:
    await page.get_by_label("Your name").fill("anna")
    await page.get_by_label("Admin token").fill(receiver.token)
    await page.get_by_role("button", name="Log in").click()
    await page.wait_for_url(f"{receiver.admin}/console")


async def _chosen(page: Page, receiver: Receiver) -> Mapping[str, str]:
    """Return the addresses of one task, the same with a chosen line, one event and one delivery."""
    async with receiver.client() as client:
        found = await client.get(f"/api/tasks?state=succeed&endpoint={ENDPOINT}&limit=20")
        tasks = [each["id"] for each in found.json()["items"]]
        delivery = (await client.get("/api/deliveries?status=dead&limit=1")).json()["items"][0]["id"]
        for task in reversed(tasks):  # on a busy machine, polls come before some callbacks
            await page.goto(f"{receiver.admin}/console/tasks/{task}")
            if await page.locator(".story a", has_text="Callback").count():
                break
        event = (await client.get(f"/api/events?task={task}&type=task.succeed")).json()["items"][0]["data"]["event_id"]
    line = await page.locator(".story a", has_text="Callback").first.get_attribute("href")
    return {
        "task": f"/console/tasks/{task}",
        "task-line": (line or "").partition("#")[0],
        "event": f"/console/events/{event}",
        "delivery": f"/console/deliveries/{delivery}",
    }


if __name__ == "__main__":
    asyncio.run(take_all())
