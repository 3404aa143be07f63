"""Fills the console's templates. All values are escaped, and an unknown name in a template is an error."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import datetime
from functools import cached_property, lru_cache
from http import HTTPStatus
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response

from receiver import __version__
from receiver.domain.clock import Clock
from receiver.domain.console_sessions import Visitor
from receiver.web.console import formats
from receiver.web.console.navigation import NAVIGATION
from receiver.web.console.static_files import static_url

if TYPE_CHECKING:
    from jinja2 import Environment

SECURITY_HEADERS: Mapping[str, str] = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; media-src 'self'; "
        "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",  # with no-referrer, browsers send a form's Origin as null
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}


_FIRST_TEMPLATE = "layout.html"  # all pages extend it; the login needs no other one
_PAUSE = 0.5  # seconds; the other templates are not compiled while the first page is made


class Renderer:
    """Turns templates into responses. The first visitor loads the template engine: a start does not need it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._loaded: asyncio.Future[None] | None = None

    async def load(self) -> None:
        """Load the engine and the common template, and the others soon after. Call this before the first page.

        All of it takes 0.2 s of CPU time. A thread does it, so that no callback waits for it.
        """
        if self._loaded is None:
            loop = asyncio.get_running_loop()
            self._loaded = loop.run_in_executor(None, self._compile, [_FIRST_TEMPLATE])
            self._loaded.add_done_callback(lambda _: loop.call_later(_PAUSE, self._load_others, loop))
        await asyncio.shield(self._loaded)

    def _load_others(self, loop: asyncio.AbstractEventLoop) -> None:
        with suppress(RuntimeError):  # the service is stopping
            loop.run_in_executor(None, self._compile, self._templates.list_templates())

    def _compile(self, names: Iterable[str]) -> None:
        for name in names:
            self._templates.get_template(name)

    @cached_property
    def _templates(self) -> "Environment":
        return template_engine(self._clock.now)

    def page(
        self,
        request: Request,
        template: str,
        *,
        title: str,
        visitor: Visitor | None = None,
        live: bool = False,
        notice: str = "",
        status: HTTPStatus = HTTPStatus.OK,
        **values: object,
    ) -> Response:
        """Return a page of the console."""
        url = request.url
        html = self._templates.get_template(template).render(
            title=title,
            visitor=visitor,
            live=live,
            path=url.path,
            address=f"{url.path}?{url.query}" if url.query else url.path,
            notice=notice,
            now=self._clock.now(),
            **values,
        )
        return Response(html, status, headers=SECURITY_HEADERS, media_type="text/html")


@lru_cache(maxsize=1)
def template_engine(now: Callable[[], datetime]) -> "Environment":
    """Return the template engine. After a reload the new console uses it again, with its compiled templates."""
    from jinja2 import Environment, PackageLoader, StrictUndefined  # noqa: PLC0415 -- a start does not need it

    templates = Environment(
        loader=PackageLoader("receiver.web.console"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    templates.filters |= formats.FILTERS
    templates.filters["ago"] = lambda at: formats.ago(at, now())
    templates.globals |= {"navigation": NAVIGATION, "static": static_url, "version": __version__}
    return templates
