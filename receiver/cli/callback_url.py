"""`kling-receiver callback-url`: a callback URL for a job that another program submits."""

from typing import Annotated
from urllib.parse import quote

from cyclopts import App, Parameter

from receiver.cli import OK, render
from receiver.cli.endpoint_names import find_named_endpoint
from receiver.cli.options import CLIENT, ClientOptions, Label, Tags, TaskRef, key_values, usage_errors
from receiver.cli.value_kinds import ENDPOINT

callback_url = App(name="callback-url", help="Create or revoke a callback URL for a job submitted elsewhere.")


@callback_url.default
def make(
    *,
    endpoint: Annotated[
        str | None, ENDPOINT, Parameter(help="Kling endpoint of the job, to confirm its result: images/generations.")
    ] = None,
    label: Label = None,
    tag: Tags = None,
    output: ClientOptions = CLIENT,
) -> int:
    """Create a callback URL for one job submitted elsewhere. It is shown only once."""
    if endpoint is not None:
        find_named_endpoint(endpoint)  # raises if it is unknown or sends no callbacks
    fields = {"endpoint": endpoint, "label": label, "tags": key_values("--tag", tag or [])}
    body = {name: value for name, value in fields.items() if value}
    with usage_errors(), output.connect() as client:
        created = client.post("/api/callback-urls", body)
    if output.json:
        render.print_json(created)
        return OK
    render.print_line(created["callback_url"])
    if render.is_terminal():
        render.notice(f"Shown only once. Task: {created['task']['id']}.")
    return OK


@callback_url.command
def revoke(
    task: TaskRef,
    /,
    *,
    output: ClientOptions = CLIENT,
) -> int:
    """Revoke a task's callback URL, for example if it leaked; the task is then tracked by polling."""
    with output.connect() as client:
        answer = client.post(f"/api/callback-urls/{quote(task, safe='')}/revoke", {})
    if output.json:
        render.print_json(answer)
    else:
        render.print_line(f"The callback URL of {answer['id']} is revoked.")
    return OK
