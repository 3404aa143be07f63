"""`kling-receiver endpoints`: Kling's endpoints and their properties. Needs no service."""

from typing import Annotated

from cyclopts import Parameter

from receiver.cli import OK, render
from receiver.cli.endpoint_names import find_named_endpoint
from receiver.cli.options import OUTPUT, OutputOptions
from receiver.cli.value_kinds import ENDPOINT
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
    path: Annotated[str | None, ENDPOINT, Parameter(help="Only this endpoint, listed or not.")] = None,
    /,
    *,
    output: OutputOptions = OUTPUT,
) -> int:
    """List Kling's endpoints: the slots a task takes, its kind of result, and how it is queried.

    An endpoint that is not listed works too if its path has the form of Kling's paths. Name it to see how it is used.
    """
    if path is None:
        items = [endpoint.describe() for endpoint in CATALOGUE.values()]
        render.page(_COLUMNS, {"items": items, "next": None}, as_json=output.json, empty="")
    elif output.json:
        render.print_json(_describe(path))
    else:
        described = _describe(path)
        render.details((column.title, column.value(described)) for column in _DETAIL_COLUMNS)
    return OK


def _describe(path: str) -> Json:
    listed = CATALOGUE.get(path.strip("/").removeprefix("v1/"))
    return (listed or find_named_endpoint(path)).describe()
