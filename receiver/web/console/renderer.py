"""Fills the console's templates. All values are escaped, and an unknown name in a template is an error."""

from collections.abc import Mapping
from functools import cached_property
from http import HTTPStatus
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response

from receiver import __version__
from receiver.domain.clock import Clock
from receiver.web.console import formats
from receiver.web.console.access import Visitor
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


class Renderer:
    """Turns templates into responses. The first page loads the template engine: a start does not need it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    @cached_property
    def _templates(self) -> "Environment":
        from jinja2 import Environment, PackageLoader, StrictUndefined  # noqa: PLC0415 -- see above

        templates = Environment(
            loader=PackageLoader("receiver.web.console"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        templates.filters |= formats.FILTERS
        templates.filters["ago"] = lambda at: formats.ago(at, self._clock.now())
        templates.globals |= {"navigation": NAVIGATION, "static": static_url, "version": __version__}
        return templates

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
