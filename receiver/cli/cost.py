"""What `tasks cost` shows: a row for each name, a column for each unit, and the sum of all."""

from datetime import datetime

from receiver.cli import OK, render
from receiver.cli.options import Reading, UsageError, moment, typed
from receiver.client import SyncClient
from receiver.domain.model import Json

_NOTHING = "(none)"


def cost(by: str, *, since: str | None, until: str | None, reading: Reading) -> int:
    """Ask for the sums, and show them."""
    began, ended = _read("--from", since), _read("--to", until)
    if began is not None and ended is not None and began >= ended:
        raise UsageError("--from is not before --to.", remedy="2h is two hours ago, and so before 1h.")
    with typed(), SyncClient(config=reading.config) as client:
        answer = client.costs(by, since=began, until=ended)
    if reading.json:
        render.as_json(answer)
        return OK
    _show(answer)
    return OK


def _read(option: str, text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(moment(option, text, days_are_utc=True))


def _show(answer: Json) -> None:
    total = answer["total"]
    columns = [
        render.Column(title=answer["by"], of=lambda row: row["name"] or _NOTHING),
        render.key("tasks"),
        *(_amount(unit) for unit in total["charges"]),
    ]
    rows = answer["items"]
    if not rows:
        render.table(columns, [], empty="No task of known cost.")
        return
    render.table(columns, [*rows, {**total, "name": "total"}], empty="")
    if answer["left_out"]:
        render.note(f"{answer['left_out']} more are in the total alone; ask for a shorter time with --from and --to.")


def _amount(unit: str) -> render.Column:
    return render.Column(title=unit.replace("_", " "), of=lambda row: row["charges"].get(unit, "0"))
