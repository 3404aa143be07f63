"""What `tasks cost` shows: a row for each name, a column for each unit, and the sum of all."""

from datetime import datetime

from receiver.cli import OK, render
from receiver.cli.options import OutputOptions, UsageError, parse_time, usage_errors
from receiver.client import SyncClient
from receiver.domain.model import Json

_UNNAMED = "(none)"


def cost(by: str, *, since: str | None, until: str | None, output: OutputOptions) -> int:
    """Ask for the sums, and show them."""
    began, ended = _parse_time("--from", since), _parse_time("--to", until)
    if began is not None and ended is not None and began >= ended:
        raise UsageError("--from is not before --to.", remedy="2h is two hours ago, and so before 1h.")
    with usage_errors(), SyncClient(config=output.config) as client:
        answer = client.costs(by, since=began, until=ended)
    if output.json:
        render.print_json(answer)
        return OK
    _print_costs(answer)
    return OK


def _parse_time(option: str, text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(parse_time(option, text, days_are_utc=True))


def _print_costs(answer: Json) -> None:
    total = answer["total"]
    columns = [
        render.Column(title=answer["by"], value=lambda row: row["name"] or _UNNAMED),
        render.column("tasks"),
        *(_amount_column(unit) for unit in total["charges"]),
    ]
    rows = answer["items"]
    if not rows:
        render.table(columns, [], empty="No task of known cost.")
        return
    render.table(columns, [*rows, {**total, "name": "total"}], empty="")
    if answer["left_out"]:
        render.notice(f"{answer['left_out']} more are in the total alone; ask for a shorter time with --from and --to.")


def _amount_column(unit: str) -> render.Column:
    return render.Column(title=unit.replace("_", " "), value=lambda row: row["charges"].get(unit, "0"))
