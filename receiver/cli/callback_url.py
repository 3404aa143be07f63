"""`kling-receiver callback-url`: a callback URL for a job that is submitted elsewhere."""

from typing import Annotated
from urllib.parse import quote

from cyclopts import App, Parameter

from receiver.cli import OK, render
from receiver.cli.options import OUTPUT, OutputOptions, key_values, usage_errors
from receiver.cli.submit import find_endpoint
from receiver.client import SyncClient

callback_url = App(name="callback-url", help="Make a callback URL for a job sent elsewhere, or revoke one.")


@callback_url.default
def make(
    *,
    endpoint: Annotated[
        str | None, Parameter(help="Where the job is submitted, such as images/generations; its end is then confirmed.")
    ] = None,
    label: Annotated[str | None, Parameter(help="A name for the task, for yourself.")] = None,
    tag: Annotated[list[str] | None, Parameter(help="A tag, key=value, that routes can look at; many times.")] = None,
    output: OutputOptions = OUTPUT,
) -> int:
    """Make a callback URL for one job that is submitted elsewhere. It is shown this once."""
    if endpoint is not None:
        find_endpoint(endpoint)  # which says what to do where there is no such, or it calls nobody back
    told = {"endpoint": endpoint, "label": label, "tags": key_values("--tag", tag or [])}
    wanted = {name: value for name, value in told.items() if value}
    with usage_errors(), SyncClient(config=output.config) as client:
        made = client.post("/api/callback-urls", wanted)
    if output.json:
        render.print_json(made)
        return OK
    render.print_line(made["callback_url"])
    if render.is_terminal():
        render.notice(f"Shown once. Its task is {made['task']['id']}.")
    return OK


@callback_url.command
def revoke(
    task: Annotated[str, Parameter(help="The task's id: ours, Kling's, or the external one.")],
    /,
    *,
    output: OutputOptions = OUTPUT,
) -> int:
    """Let a task's callback URL lead nowhere from now on, if it leaked; the task is followed by polling alone."""
    with SyncClient(config=output.config) as client:
        answer = client.post(f"/api/callback-urls/{quote(task, safe='')}/revoke", {})
    if output.json:
        render.print_json(answer)
    else:
        render.print_line(f"The callback URL of {answer['id']} leads nowhere now.")
    return OK
