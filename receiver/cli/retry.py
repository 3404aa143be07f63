"""`kling-receiver tasks retry`: submits tasks that failed again, as new tasks."""

import sys
from collections.abc import Sequence

from receiver.cli import FAILED, OK, render
from receiver.cli.cancel import TaskSelection, all_tasks, count_text, print_tasks, report_no_match
from receiver.cli.job_file import BATCH_CLOSE_REASON
from receiver.cli.options import ClientOptions, UsageError, usage_errors
from receiver.cli.task_columns import TASK_COLUMNS
from receiver.client import SyncClient, Task
from receiver.domain.errors import Conflict
from receiver.domain.model import TaskState


def retry(
    refs: Sequence[str],
    selection: TaskSelection,
    *,
    failed: bool,
    why: str,
    yes: bool,
    dry_run: bool,
    output: ClientOptions,
) -> int:
    """Submit the named tasks, or the failed ones of a selection, again. Return 1 if one cannot be retried."""
    if bool(refs) == failed or (selection and not failed):
        raise UsageError(
            "Name the tasks to retry, or select them with --failed, but not both.",
            remedy="Give task ids, or --failed with --batch, --tag, --label or --endpoint.",
        )
    with usage_errors(), output.connect() as client:
        tasks = [client.task(ref) for ref in refs] if refs else _failed_tasks(client, selection)
        if not tasks:
            return report_no_match(client, selection, "submitted", output)
        if dry_run:
            render.notice(f"{count_text(tasks)} would be submitted again.")
            return print_tasks(tasks, output)
        if not yes and not _is_confirmed(tasks):
            render.notice("Nothing was submitted.")
            return FAILED
        return _retry_each(client, tasks, why, output)


def _failed_tasks(client: SyncClient, selection: TaskSelection) -> list[Task]:
    """Return the failed and rejected tasks of the selection, without those that an operator cancelled."""
    found = all_tasks(client, selection, [TaskState.FAILED, TaskState.REJECTED])
    return list(reversed(found))


def _is_confirmed(tasks: Sequence[Task]) -> bool:
    """Show the tasks on a terminal, and ask. Raises UsageError without a terminal."""
    question = f"Submit {count_text(tasks)} again? Kling charges for each."
    if not (sys.stdin.isatty() and render.is_terminal()):
        raise UsageError(f"{question} Only a terminal can answer this.", remedy="Add --yes, or --dry-run to list.")
    render.table(TASK_COLUMNS, [task.raw for task in tasks], empty="")
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _retry_each(client: SyncClient, tasks: Sequence[Task], why: str, output: ClientOptions) -> int:
    new, refused = list[Task](), list[str]()
    batches = set[str]()
    for task in tasks:
        try:
            retried = client.retry(task.id, why=why)
        except Conflict as exc:
            refused.append(str(exc))
            continue
        new.append(retried)
        if retried.batch is not None and retried.batch != task.batch:
            batches.add(retried.batch)
    for name in sorted(batches):  # made for these tasks alone; an open batch would never finish
        client.close_batch(name, why=BATCH_CLOSE_REASON)
    print_tasks(new, output)
    _report(new)
    for each in refused:
        render.notice(each)
    return FAILED if refused else OK


def _report(retried: Sequence[Task]) -> None:
    """Print how many tasks are new, and how many an earlier retry submitted: a task is retried once."""
    earlier = [task for task in retried if task.raw.get("existing")]
    new = [task for task in retried if not task.raw.get("existing")]
    said = f"{count_text(new)} submitted again." if new or not earlier else "Nothing was submitted."
    note = f" {count_text(earlier)} had been submitted again earlier." if earlier else ""
    render.notice(said + note)
