"""`kling-receiver alerts`: what needs an operator, and what is known already."""

from typing import Annotated

from cyclopts import App, Parameter

from receiver.cli import OK, render
from receiver.cli.options import (
    CLIENT,
    PAGING,
    SPAN,
    ClientOptions,
    Paging,
    Span,
    UsageError,
    not_found_hint,
    usage_errors,
)
from receiver.cli.value_kinds import ALERT_ID, ALERT_TYPE, TEXT
from receiver.domain.model import Json

alerts = App(name="alerts", help="List and acknowledge alerts.")


def _acknowledged_text(alert: Json) -> str:
    acknowledged = alert.get("acknowledged")
    if not acknowledged:
        return ""
    return f"{acknowledged['by']}: {acknowledged['note']}" if acknowledged["note"] else str(acknowledged["by"])


_COLUMNS = (
    render.id_column("id", "id"),
    render.state_column("state"),
    render.Column(title="type", value=lambda alert: alert.get("type"), no_wrap=True, rank=0),
    render.column("subject", rank=2),
    render.time_column("since", "since", rank=1),
    render.time_column("last_seen_at", "last seen", rank=4),
    render.column("times", rank=3),
    render.column("message", rank=1),
    render.column("remedy", rank=3),
    render.Column(title="acknowledged", value=_acknowledged_text, rank=3),
    render.time_column("closed_at", "closed", rank=5),
)


@alerts.command(name="list")
def list_(
    *,
    past: Annotated[bool, Parameter(help="Only closed alerts.")] = False,
    all_: Annotated[bool, Parameter(name="--all", help="Closed alerts too.")] = False,
    type_: Annotated[
        list[str] | None,
        ALERT_TYPE,
        Parameter(name="--type", help="Only this type, such as alert.route_held. May be repeated."),
    ] = None,
    subject: Annotated[
        str | None, TEXT, Parameter(help="Only alerts about this route, task, event, folder or part of the account.")
    ] = None,
    span: Span = SPAN,
    paging: Paging = PAGING,
    output: ClientOptions = CLIENT,
) -> int:
    """List the alerts that are not closed, newest first."""
    if past and all_:
        raise UsageError("--past and --all contradict each other.", remedy="Give only one of them.")
    with usage_errors(), output.connect() as client:
        found = client.alerts(
            state="closed" if past else "" if all_ else "open,acknowledged",
            types=type_ or (),
            subject=subject,
            since=span.since,
            until=span.until,
            limit=paging.size,
            cursor=paging.cursor,
        )
    render.page(_COLUMNS, found.raw, as_json=output.json, empty="No alerts.")
    return OK


@alerts.command
def ack(
    alert: Annotated[str, ALERT_ID, Parameter(help="ID of the alert.")],
    /,
    *,
    note: Annotated[str, TEXT, Parameter(help="Note for other operators, and for the audit log.")] = "",
    output: ClientOptions = CLIENT,
) -> int:
    """Acknowledge an alert: it stays quiet until it changes."""
    with usage_errors(), not_found_hint("alerts list"), output.connect() as client:
        answer = client.acknowledge_alert(alert, note=note)
    if note and (acknowledged := answer.get("acknowledged")) and acknowledged["note"] != note:
        render.notice(f"{acknowledged['by']} acknowledged it before: that note stays, and yours was not stored.")
    if output.json:
        render.print_json(answer)
    else:
        render.table(_COLUMNS, [answer], empty="")
    return OK
