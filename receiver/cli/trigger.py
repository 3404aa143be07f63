"""`kling-receiver trigger`: sends a test task through every step, to try routes and destinations."""

from typing import Annotated

from cyclopts import Parameter

from receiver.cli import OK, render
from receiver.cli.options import CLIENT, ClientOptions, Label, Tags, UsageError, key_values, usage_errors
from receiver.cli.value_kinds import ENDPOINT, REACHED_STATE


def trigger(
    state: Annotated[
        str,
        REACHED_STATE,
        Parameter(help="Last state of the task: submitted, processing, succeed, failed, rejected or expired."),
    ],
    /,
    *,
    endpoint: Annotated[
        str | None, ENDPOINT, Parameter(help="Kling endpoint of the task: images/multi-image2image.")
    ] = None,
    label: Label = None,
    tag: Tags = None,
    output: ClientOptions = CLIENT,
) -> int:
    """Send a test task through the routes, as if Kling had reported it. It is marked as a test and never billed."""
    fields = {"state": state, "endpoint": endpoint, "label": label, "tags": key_values("--tag", tag or [])}
    try:
        with usage_errors(), output.connect() as client:
            task = client.post("/api/trigger", {name: value for name, value in fields.items() if value})
    except UsageError as exc:  # the state is an argument, not an option
        raise UsageError(exc.message.replace("--state", "STATE"), remedy=exc.remedy) from exc
    if output.json:
        render.print_json(task)
        return OK
    render.print_line(task["id"])
    if render.is_terminal():
        render.notice(f"See what became of it: kling-receiver explain {task['id']}")
    return OK
