"""What `tasks cost` shows: a row for each name, a column for each unit, and the sum of all."""

from datetime import datetime

from receiver.cli import OK, render
from receiver.cli.options import Reading, moment, typed
from receiver.client import SyncClient
from receiver.model import Json

_NOTHING = "(none)"


def cost(by: str, *, since: str | None, until: str | None, reading: Reading) -> int:
    """Ask for the sums, and show them."""
    began = None if since is None else datetime.fromisoformat(moment("--from", since))
    ended = None if until is None else datetime.fromisoformat(moment("--to", until))
    with typed(), SyncClient(config=reading.config) as client:
        answer = client.costs(by, since=began, until=ended)
    if reading.json:
        render.as_json(answer)
        return OK
    _show(answer)
    return OK


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
