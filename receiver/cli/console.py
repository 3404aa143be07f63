"""`kling-receiver console`: opens the console in a browser, logged in."""

import os
import sys
from typing import Annotated

from cyclopts import Parameter

from receiver.cli import OK, render
from receiver.cli.options import CLIENT, ClientOptions


def console(
    *,
    no_open: Annotated[bool, Parameter(help="Only print the link, for a browser on another machine.")] = False,
    output: ClientOptions = CLIENT,
) -> int:
    """Print a link that logs a browser in to the console, and open it. The link works once, for 60 seconds."""
    with output.connect() as client:
        link = client.post("/api/console/links", {})
        answer = {"url": f"{client.url}{link['path']}", "expires_at": link["expires_at"]}
    if output.json:
        render.print_json(answer)
        return OK
    render.print_line(answer["url"])
    if not no_open and render.is_terminal() and _has_browser():
        import webbrowser

        webbrowser.open(answer["url"])
    return OK


def _has_browser() -> bool:
    """Return whether this session has a screen: without one, a text browser would take over the terminal."""
    return sys.platform in ("darwin", "win32") or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
