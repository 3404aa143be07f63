"""`kling-receiver tasks delete`: deletes ended tasks with everything stored about them."""

import sys
from collections.abc import Sequence

from receiver.cli import FAILED, OK, render
from receiver.cli.options import ClientOptions, UsageError, usage_errors
from receiver.client import SyncClient
from receiver.domain.errors import Conflict
from receiver.domain.model import Json
from receiver.domain.quantity_text import counted

_COLUMNS = (
    render.id_column("id", "id"),
    render.state_column("state"),
    render.column("pushes"),
    render.column("events"),
    render.column("deliveries"),
    render.column("files"),
    render.column("left", "files left"),
)


def delete(refs: Sequence[str], *, results: bool, why: str, yes: bool, dry_run: bool, output: ClientOptions) -> int:
    """Delete tasks after a preview and a confirmation. Return 1 if one cannot be deleted."""
    with usage_errors(), output.connect() as client:
        previews, refused = _each(client, refs, results=results, dry_run=True, why="")
        if dry_run or not previews:
            code = _print(previews, output, words="would be deleted")
            return _report(refused) or code
        if not yes and not _is_confirmed(previews):
            render.notice("Nothing was deleted.")
            return FAILED
        ids = [str(each["task"]["id"]) for each in previews]
        deleted, late = _each(client, ids, results=results, dry_run=False, why=why)
    _print(deleted, output, words="deleted")
    return _report([*refused, *late])


def _each(
    client: SyncClient, refs: Sequence[str], *, results: bool, dry_run: bool, why: str
) -> tuple[list[Json], list[str]]:
    """Delete tasks, or preview that. Return the deletions, and why other tasks cannot be deleted."""
    deletions, refused = list[Json](), list[str]()
    for ref in dict.fromkeys(refs):
        try:
            deletions.append(client.delete(ref, results=results, dry_run=dry_run, why=why))
        except Conflict as exc:
            refused.append(str(exc))
    return deletions, refused


def _is_confirmed(previews: Sequence[Json]) -> bool:
    """Show the tasks on a terminal, and ask. Raises UsageError without a terminal."""
    question = f"Delete {_count(previews)} for good?{_note(previews)}"
    if not (sys.stdin.isatty() and render.is_terminal()):
        raise UsageError(f"{question} Only a terminal can answer this.", remedy="Add --yes, or --dry-run to list.")
    render.table(_COLUMNS, _rows(previews), empty="")
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _print(deletions: Sequence[Json], output: ClientOptions, *, words: str) -> int:
    if output.json:
        render.print_json({"items": list(deletions), "next": None})
    elif deletions:
        render.table(_COLUMNS, _rows(deletions), empty="")
    render.notice(f"{_count(deletions)} {words}.{_note(deletions)}")
    for place in (place for each in deletions for place in each["left"]):
        render.notice(f"Left: {place}")
    return OK


def _rows(deletions: Sequence[Json]) -> list[Json]:
    return [
        {**each, "id": each["task"]["id"], "state": each["task"]["state"], "files": len(each["removed"])}
        | {"left": len(each["left"])}
        for each in deletions
    ]


def _note(deletions: Sequence[Json]) -> str:
    pending = sum(each["pending_deliveries"] for each in deletions)
    if not pending:
        return ""
    pending_ones = counted(pending, "pending delivery", "pending deliveries")
    return f" {pending_ones} will not be made."


def _count(deletions: Sequence[Json]) -> str:
    return counted(len(deletions), "task")


def _report(refused: Sequence[str]) -> int:
    for each in refused:
        render.notice(each)
    return FAILED if refused else OK
