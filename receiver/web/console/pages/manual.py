"""The manual, rendered from its Markdown."""

import asyncio
import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

import msgspec
from markupsafe import Markup
from starlette.responses import Response
from starlette.routing import Route

from receiver.domain.errors import NotFound
from receiver.web.console.gate import Gate, Visit
from receiver.web.console.renderer import SECURITY_HEADERS

if TYPE_CHECKING:
    from markdown_it.token import Token

PATH = "/console/manual"

_LINK = re.compile(r"([a-z0-9-]+)\.md(#.*)?")


class ManualPage(msgspec.Struct, frozen=True, kw_only=True):
    """One page of the manual: its title, its sentence of purpose, and the whole page as Markdown."""

    subject: str
    title: str
    purpose: str
    source: str


class ManualPages:
    """Answers ``/console/manual``."""

    def routes(self, gate: Gate) -> list[Route]:
        """Return the routes of the list and of each page."""
        return [
            gate.page(PATH, self.list),
            gate.page(f"{PATH}/images/{{name}}", self.send_image),
            gate.page(f"{PATH}/{{subject}}", self.show),
        ]

    async def list(self, visit: Visit) -> Response:
        """Show all subjects."""
        return visit.page("manual.html", title="Manual", live=False, pages=list(manual().values()))

    async def send_image(self, visit: Visit) -> Response:
        """Send a picture of the manual."""
        image = _images().get(visit.request.path_params["name"])
        if image is None:
            raise NotFound("The manual has no such picture.")
        return Response(image, headers=SECURITY_HEADERS, media_type="image/webp")

    async def show(self, visit: Visit) -> Response:
        """Show a page of the manual."""
        page = manual().get(visit.request.path_params["subject"])
        if page is None:
            raise NotFound("The manual has no such page.")
        html = await asyncio.to_thread(html_of, page.subject)  # the first time, a long page takes 0.1 s
        pages = list(manual().values())
        return visit.page("manual_page.html", title=page.title, live=False, page=page, html=html, pages=pages)


@cache
def manual() -> Mapping[str, ManualPage]:
    """Return the pages of the manual by subject."""
    sources = [each for each in (files("receiver") / "docs").iterdir() if each.name.endswith(".md")]
    pages = [_page(each.name.removesuffix(".md"), each.read_text(encoding="utf-8")) for each in sources]
    return {page.subject: page for page in sorted(pages, key=lambda page: page.title)}


@cache
def _images() -> Mapping[str, bytes]:
    """Return the pictures of the manual by name."""
    folder = files("receiver") / "docs" / "images"
    return {each.name: each.read_bytes() for each in folder.iterdir() if each.name.endswith(".webp")}


def _page(subject: str, source: str) -> ManualPage:
    title, purpose, *_ = source.split("\n\n", 2)
    title, purpose = title.removeprefix("# "), " ".join(purpose.split())
    return ManualPage(subject=subject, title=title, purpose=purpose, source=source)


@cache
def html_of(subject: str) -> Markup:
    """Return a page of the manual as HTML."""
    from markdown_it import MarkdownIt  # noqa: PLC0415 -- only readers of the manual need it

    # HTML in a page would be text. The pages are our own, and every address is checked here.
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = markdown.parse(manual()[subject].source)
    _add_anchors(tokens)
    _rewrite_links(tokens)
    html = markdown.renderer.render(tokens, markdown.options, {})
    html = html.replace("<pre>", '<pre tabindex="0">')  # it may scroll, so the keyboard must reach it
    return Markup(html)  # noqa: S704 -- rendered from the package's own files, without their HTML


def _add_anchors(tokens: Sequence["Token"]) -> None:
    """Name each heading as links do, so that they lead to it."""
    for number, token in enumerate(tokens):
        if token.type == "heading_open":
            text = tokens[number + 1].content
            token.attrSet("id", re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-"))


def _rewrite_links(tokens: Sequence["Token"]) -> None:
    """Lead links between pages to pages of the console.."""
    for token in tokens:
        if token.children:
            _rewrite_links(token.children)
        if token.type == "link_open":
            target = str(token.attrGet("href") or "")
            if match := _LINK.fullmatch(target):
                token.attrSet("href", f"{PATH}/{match[1]}{match[2] or ''}")
            elif not target.startswith(("#", "https://", "http://")):
                del token.attrs["href"]  # a file of the repository
