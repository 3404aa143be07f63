"""`kling-receiver costs`: Kling's own ledgers, compared with the stored costs."""

from collections.abc import Mapping
from typing import Annotated

from cyclopts import App, Parameter

from receiver.cli import FAILED, OK, render
from receiver.cli.cost import parse_period
from receiver.cli.options import CLIENT, ClientOptions, usage_errors
from receiver.cli.value_kinds import TIME
from receiver.domain.model import Json
from receiver.domain.quantity_text import amount_text

costs = App(name="costs", help="Compare Kling's ledgers with the stored costs. To sum costs: tasks cost.")


def _amounts(charges: Mapping[str, str] | None) -> str:
    if charges is None:
        return "unknown"
    return ", ".join(amount_text(amount, unit) for unit, amount in charges.items()) or "0"


_UNKNOWN = (
    render.id_column("kling_id", "kling id"),
    render.time_column("created_at", "made"),
    render.time_column("charged_at", "billed"),
    render.Column(title="amount", value=lambda row: _amounts(row["charges"])),
    render.column("product"),
    render.column("model"),
    render.column("api_key_name", "key"),
)
_OWN = (
    render.id_column("task_id", "task"),
    render.column("endpoint"),
    render.time_column("ended_at", "ended"),
    render.Column(title="recorded", value=lambda row: _amounts(row["recorded"])),
)
_DIFFERENT = (*_OWN, render.Column(title="billed", value=lambda row: _amounts(row["billed"])))
_PACKS = (
    render.column("name", "pack"),
    render.column("status"),
    render.Column(title="left", value=lambda row: f"{row['left']} of {row['total']}"),
    render.time_column("expires_at", "expires"),
)


@costs.command
def check(
    *,
    from_: Annotated[
        str | None,
        TIME,
        Parameter(name=("--from", "--since"), help="Only charges at or after: 2026-11-01 (UTC), or 30d ago (default)."),
    ] = None,
    to: Annotated[
        str | None,
        TIME,
        Parameter(name=("--to", "--until"), help="Only charges before: 2026-12-01 (UTC), or 1d ago (default: now)."),
    ] = None,
    output: ClientOptions = CLIENT,
) -> int:
    """Compare what Kling billed with what this receiver recorded, task by task. Exit code 1 if they differ.

    Kling's ledgers may be 12 hours late. The command reads them, and changes nothing at Kling.
    """
    since, until = parse_period(from_, to)
    with usage_errors(), output.connect() as client:
        if not output.json:
            render.notice("Reading Kling's ledgers...")
        report = client.check_costs(since=since, until=until)
    if output.json:
        render.print_json(report)
    else:
        _print(report)
    return OK if report["agrees"] else FAILED


def _print(report: Json) -> None:
    corrected = f" The unit of {report['corrected']} was corrected." if report["corrected"] else ""
    render.print_line("billed", _amounts(report["billed"]))
    render.print_line("agree", f"{report['matched']} tasks.{corrected}")
    for title, name, columns in (
        (
            "Billed, but not in the store: submitted by another program, or elsewhere with this account",
            "unknown",
            _UNKNOWN,
        ),
        ("Succeeded, but not billed 12 hours later", "unbilled", _OWN),
        ("Billed with another amount than the task reported", "different", _DIFFERENT),
        ("Packs", "packs", _PACKS),
    ):
        if report[name]:
            render.notice(f"{title}:")
            render.table(columns, report[name], empty="")
    if report["left_out"]:
        render.notice(f"{report['left_out']} more entries are not shown. Shorten the period: --from, --to.")
    if report["agrees"]:
        render.notice("Kling's ledgers agree with the stored costs.")
