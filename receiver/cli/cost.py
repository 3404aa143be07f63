"""The output of `tasks cost`: a row for each group, a column for each unit, and a total."""

from datetime import datetime

from receiver.cli import OK, render
from receiver.cli.options import ClientOptions, UsageError, parse_time, usage_errors
from receiver.domain.model import Json

_UNNAMED = "(none)"


def cost(by: str, *, since: str | None, until: str | None, output: ClientOptions) -> int:
    """Query the sums and print them."""
    start, end = parse_period(since, until)
    with usage_errors(), output.connect() as client:
        answer = client.costs(by, since=start, until=end)
    if output.json:
        render.print_json(answer)
        return OK
    _print_costs(answer)
    return OK


def parse_period(since: str | None, until: str | None) -> tuple[datetime | None, datetime | None]:
    """Parse ``--from`` and ``--to``; a day is in UTC, as Kling bills it."""
    start, end = _parse_time("--from", since), _parse_time("--to", until)
    if start is not None and end is not None and start >= end:
        raise UsageError("--from must be before --to.", remedy="2h means two hours ago, which is before 1h.")
    return start, end


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
        render.table(columns, [], empty="No tasks with a known cost.")
        return
    render.table(columns, [*rows, {**total, "name": "total"}], empty="")
    if answer["left_out"]:
        render.notice(
            f"{answer['left_out']} more groups count in the total but are not listed. Shorten the period: --from, --to."
        )


def _amount_column(unit: str) -> render.Column:
    return render.Column(title=unit.replace("_", " "), value=lambda row: row["charges"].get(unit, "0"))
