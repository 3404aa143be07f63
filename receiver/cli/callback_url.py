"""`kling-receiver callback-url`: a callback URL for a job that is submitted elsewhere."""

from typing import Annotated

from cyclopts import Parameter

from receiver.cli import OK, render
from receiver.cli.connection import connect
from receiver.cli.options import READING, Reading


def callback_url(
    *,
    endpoint: Annotated[
        str | None, Parameter(help="Where the job is submitted, such as images/generations; its end is then confirmed.")
    ] = None,
    label: Annotated[str | None, Parameter(help="A name for the task, for yourself.")] = None,
    reading: Reading = READING,
) -> int:
    """Make a callback URL for one job that is submitted elsewhere. It is shown this once."""
    wanted = {name: value for name, value in (("endpoint", endpoint), ("label", label)) if value}
    with connect(reading.config) as connection:
        made = connection.post("/api/callback-urls", wanted)
    if reading.json:
        render.as_json(made)
        return OK
    render.line(made["callback_url"])
    if render.is_terminal():
        render.note(f"Shown once. Its task is {made['task']['id']}.")
    return OK
