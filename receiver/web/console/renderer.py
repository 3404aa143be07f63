"""Fills the console's templates. All values are escaped, and an unknown name in a template is an error."""

from collections.abc import Mapping
from http import HTTPStatus

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import Response

from receiver import __version__
from receiver.domain.clock import Clock
from receiver.web.console import formats
from receiver.web.console.access import Visitor
from receiver.web.console.navigation import NAVIGATION
from receiver.web.console.static_files import static_url

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
    """Turns templates into responses."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._templates = Environment(
            loader=PackageLoader("receiver.web.console"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
            enable_async=False,
        )
        self._templates.filters |= formats.FILTERS
        self._templates.tests["recent"] = lambda at: (clock.now() - at).total_seconds() < 60  # noqa: PLR2004 -- a minute
        self._templates.filters["ago"] = lambda at: formats.ago(at, clock.now())
        self._templates.globals |= {"navigation": NAVIGATION, "static": static_url, "version": __version__}

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
