"""`kling-receiver endpoints`: what Kling can be asked for, and what is known of it. Needs no service."""

from typing import Annotated

from cyclopts import Parameter

from receiver.cli import OK, render
from receiver.cli.options import READING, Reading
from receiver.cli.submit import find_endpoint
from receiver.domain.model import Json
from receiver.kling.endpoints import CATALOGUE

_COLUMNS = (
    render.identity("path", "path"),
    render.key("generation"),
    render.key("pack"),
    render.key("slots"),
    render.key("result"),
    render.Column(title="calls back", of=lambda item: "yes" if item.get("asynchronous") else "no"),
    render.key("query"),
)
_OF_ONE = (*_COLUMNS, render.key("list"))


def endpoints(
    path: Annotated[str | None, Parameter(help="Only this one; it need not be listed to be taken.")] = None,
    /,
    *,
    reading: Reading = READING,
) -> int:
    """List Kling's endpoints: whose slots a task takes, what it makes, how it is asked about.

    One that is not listed works too, wherever its path has a form of Kling's: name it to see what is made of it.
    """
    if path is None:
        items = [endpoint.facts() for endpoint in CATALOGUE.values()]
        render.page(_COLUMNS, {"items": items, "next": None}, as_json_too=reading.json, empty="")
    elif reading.json:
        render.as_json(_facts(path))
    else:
        render.fields((column.title, column.of(_facts(path))) for column in _OF_ONE)
    return OK


def _facts(path: str) -> Json:
    listed = CATALOGUE.get(path.strip("/").removeprefix("v1/"))
    return (listed or find_endpoint(path)).facts()
