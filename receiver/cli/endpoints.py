"""`kling-receiver endpoints`: what Kling can be asked for, and what is known of it. Needs no service."""

from typing import Annotated

from cyclopts import Parameter

from receiver.cli import OK, render
from receiver.cli.options import OUTPUT, OutputOptions
from receiver.cli.submit import find_endpoint
from receiver.domain.model import Json
from receiver.kling.endpoints import CATALOGUE

_COLUMNS = (
    render.id_column("path", "path"),
    render.column("generation"),
    render.column("pack"),
    render.column("slots"),
    render.column("result"),
    render.Column(title="calls back", value=lambda item: "yes" if item.get("asynchronous") else "no"),
    render.column("query"),
)
_DETAIL_COLUMNS = (*_COLUMNS, render.column("list"))


def endpoints(
    path: Annotated[str | None, Parameter(help="Only this one; it need not be listed to be taken.")] = None,
    /,
    *,
    output: OutputOptions = OUTPUT,
) -> int:
    """List Kling's endpoints: whose slots a task takes, what it makes, how it is asked about.

    One that is not listed works too, wherever its path has a form of Kling's: name it to see what is made of it.
    """
    if path is None:
        items = [endpoint.describe() for endpoint in CATALOGUE.values()]
        render.page(_COLUMNS, {"items": items, "next": None}, as_json=output.json, empty="")
    elif output.json:
        render.print_json(_describe(path))
    else:
        render.details((column.title, column.value(_describe(path))) for column in _DETAIL_COLUMNS)
    return OK


def _describe(path: str) -> Json:
    listed = CATALOGUE.get(path.strip("/").removeprefix("v1/"))
    return (listed or find_endpoint(path)).describe()
