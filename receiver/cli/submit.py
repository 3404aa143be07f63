"""`kling-receiver submit`: submits one job or a file of jobs to Kling."""

import re
from datetime import timedelta
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from cyclopts import Parameter

from receiver.cli import FAILED, OK, render
from receiver.cli.job_file import BATCH_CLOSE_REASON, JobDefaults, read_jobs
from receiver.cli.open_batches import open_batches_note
from receiver.cli.options import CLIENT, ClientOptions, Label, Tags, UsageError, duration, key_values, usage_errors
from receiver.cli.submit_body import NO_BODY, BodyOptions
from receiver.cli.value_kinds import BATCH, DURATION, ENDPOINT, KEY, NUMBER
from receiver.client import SyncClient, Task
from receiver.domain.batches import BATCH_NAME_PATTERN, BATCH_NAME_RULE
from receiver.domain.clock import SystemClock
from receiver.domain.listed_state import ListedState
from receiver.domain.model import Json
from receiver.domain.quantity_text import counted
from receiver.kling.endpoints import CATALOGUE, Endpoint, resolve

_MAX_TEXT = 1000
_MAX_SHOWN = 100  # characters of a refused value in a message
_TYPO = 0.9  # similarity from which an unlisted path is probably a typo of a listed one

EndpointPath: TypeAlias = Annotated[
    str | None, ENDPOINT, Parameter(help="Kling endpoint, such as images/multi-image2image.")
]
Priority: TypeAlias = Annotated[
    int, NUMBER, Parameter(help="Priority in the queue: higher is submitted first (default: 0).")
]
Size: TypeAlias = Annotated[
    int | None, NUMBER, Parameter(help="With --batch: its number of tasks; without it, close it with `batches close`.")
]
Close: TypeAlias = Annotated[
    bool,
    Parameter(
        negative=(),
        help="Close the batch after submitting; batch.finished follows when its tasks are finished.",
    ),
]
Key: TypeAlias = Annotated[
    str | None,
    KEY,
    Parameter(
        help="Idempotency key: the same key returns the first task. With a file: a new key submits all jobs again."
    ),
]
New: TypeAlias = Annotated[
    bool, Parameter(negative=(), help="With a file: submit all jobs again as new tasks, also those submitted before.")
]
Reuse: TypeAlias = Annotated[
    bool,
    Parameter(negative=(), help="Return the task that has the idempotency key, even if its body differs."),
]

Reply: TypeAlias = Annotated[
    Literal["all", "final"] | None,
    Parameter(
        metavar="all|final",
        help="What the callback_url in the body receives: every status of Kling's, or only the end, once.",
    ),
]
DryRun: TypeAlias = Annotated[
    bool, Parameter(negative=(), help="Submit nothing: print about what the job will cost, and its slots.")
]


def submit(
    endpoint: EndpointPath = None,
    /,
    *,
    content: BodyOptions = NO_BODY,
    label: Label = None,
    tag: Tags = None,
    priority: Priority = 0,
    batch: Annotated[str | None, BATCH, Parameter(help="Name of the batch to add the task to.")] = None,
    batch_size: Size = None,
    close_batch: Close = False,
    idempotency_key: Key = None,
    new: New = False,
    reuse: Reuse = False,
    reply: Reply = None,
    dry_run: DryRun = False,
    wait: Annotated[bool, Parameter(help="Wait until the task is finished, and print where its results are.")] = False,
    timeout: Annotated[str | None, DURATION, Parameter(help="With --wait: maximum time to wait, such as 10m.")] = None,
    output: ClientOptions = CLIENT,
) -> int:
    """Submit a task to Kling, through the running service."""
    limit = _time_limit(timeout, wait=wait)
    options: dict[str, Any] = {"label": label, "tags": key_values("--tag", tag or []), "priority": priority}
    options |= {"reuse": reuse, "reply": reply, "batch": _batch_json(batch, batch_size)}
    if (job_file := content.job_file()) is not None:
        _check_file_options(limit, dry_run=dry_run)
        resolved = None if endpoint is None else find_endpoint(endpoint)
        options |= {"run": idempotency_key or (_new_run() if new else ""), "is_new": new}
        defaults = JobDefaults(endpoint=resolved, dialect=output.dialect(), **options)
        return _submit_many(job_file, defaults, wait=wait, close=close_batch, output=output)
    if close_batch and batch is None:
        raise _nothing_to_close_error()
    if endpoint is None:
        raise UsageError("No endpoint given.", remedy="Name it: `kling-receiver submit images/multi-image2image ...`")
    known = find_endpoint(endpoint)
    options["idempotency_key"] = idempotency_key
    task_body = content.build(known, output.dialect())
    if dry_run:
        return _print_estimate(known.path, task_body, output)
    return _submit_one(known.path, task_body, options, close=close_batch, wait=wait, limit=limit, output=output)


def _check_file_options(limit: timedelta | None, *, dry_run: bool) -> None:
    if dry_run:
        raise UsageError("--dry-run is for one job.", remedy="Try it with one line of the file.")
    if limit:
        raise UsageError("--timeout is for one job.", remedy="Interrupt the command with Ctrl-C.")


def _new_run() -> str:
    """Return a name for a run, which makes other idempotency keys than any earlier run."""
    return SystemClock().now().strftime("new-%Y%m%dT%H%M%S%f")


def _time_limit(timeout: str | None, *, wait: bool) -> timedelta | None:
    if timeout and not wait:
        raise UsageError("--timeout needs --wait.", remedy="Add --wait.")
    return duration("--timeout", timeout) if timeout else None


def _submit_one(
    path: str,
    body: Json,
    options: dict[str, Any],
    *,
    close: bool,
    wait: bool,
    limit: timedelta | None,
    output: ClientOptions,
) -> int:
    with usage_errors(), output.connect() as client:
        task = client.submit(path, body, **options)
        if close:
            client.close_batch(options["batch"]["name"], why=BATCH_CLOSE_REASON)
        elif options["batch"] and (wait or render.is_terminal()):  # a script may submit many, one by one
            _note_open_batch(client, options["batch"]["name"])
        if wait:
            from receiver.cli.task_wait import wait as wait_for

            return wait_for(client, task.id, timeout=limit, as_json=output.json)
    return _report_task(task, as_json=output.json)


def _note_open_batch(client: SyncClient, name: str) -> None:
    if note := open_batches_note([client.batch(name)]):
        render.notice(note)


def _print_estimate(path: str, body: Json, output: ClientOptions) -> int:
    """Print what a job would cost. Long texts such as images are not sent: they change no price."""
    short = {name: value for name, value in body.items() if not isinstance(value, str) or len(value) <= _MAX_TEXT}
    short = {name: bool(value) if isinstance(value, list) else value for name, value in short.items()}
    with usage_errors(), output.connect() as client:
        estimate = client.estimate_cost(path, short)
    if output.json:
        render.print_json(estimate)
        return OK
    render.print_line(f"Cost: {render.clean(estimate['summary'])}.")
    if estimate["pack"]:
        render.print_line(f"Takes {counted(estimate['slots'], 'slot')} of the {estimate['pack']} pack.")
    render.notice("Nothing was submitted.")
    return OK


def _batch_json(name: str | None, size: int | None) -> Json | None:
    if name is None and size is not None:
        raise UsageError("--batch-size needs a batch.", remedy="Name the batch with --batch.")
    if name is not None and not re.fullmatch(BATCH_NAME_PATTERN, name):
        raise UsageError(f"--batch must be {BATCH_NAME_RULE}; found {name[:_MAX_SHOWN]!r}.")
    return None if name is None else {"name": name, "size": size}


def _nothing_to_close_error() -> UsageError:
    return UsageError(
        "--close-batch needs a batch.", remedy="Name the batch with --batch, or in the lines of the file."
    )


def _submit_many(path: Path, defaults: JobDefaults, *, wait: bool, close: bool, output: ClientOptions) -> int:
    from receiver.cli.bulk_submit import BulkOptions, submit_all

    jobs = read_jobs(path, defaults)
    batches = sorted({job.batch_name for job in jobs if job.batch_name is not None})
    if close and not batches:
        raise _nothing_to_close_error()
    run = defaults.run if defaults.is_new else ""
    return submit_all(jobs, BulkOptions(output=output, wait=wait, batches=batches, close_batches=close, run=run))


def _report_task(task: Task, *, as_json: bool) -> int:
    """Print the submitted task. Raises TaskNotSucceeded if it was rejected."""
    from receiver.cli.task_wait import not_succeeded_error

    _print_task(task, as_json=as_json)
    if task.state not in (ListedState.REJECTED, ListedState.CANCELLED):
        return OK
    if as_json:
        return FAILED
    raise not_succeeded_error(task, 0)


def find_endpoint(path: str) -> Endpoint:
    """Return the endpoint of a path, listed or not. Raises UsageError if it has no callbacks."""
    endpoint = resolve(path)
    if endpoint is None:
        name = path.strip("/").removeprefix("v1/")
        if name in CATALOGUE:
            raise UsageError(
                f"{name} answers at once and sends no callbacks, so it creates no task.",
                remedy=f"Call it through the gateway: POST /kling/v1/{name} at the admin listener.",
            )
        paths = [each.path for each in CATALOGUE.values() if each.asynchronous]
        close = get_close_matches(name, paths, n=1, cutoff=0.5)
        raise UsageError(
            f"{path!r} is not a Kling endpoint with callbacks.",
            remedy=f"Did you mean {close[0]}?" if close else "For example: images/multi-image2image.",
        )
    if not endpoint.is_listed and (close := get_close_matches(endpoint.path, CATALOGUE, n=1, cutoff=_TYPO)):
        render.notice(f"{endpoint.path} is not a listed endpoint; it is sent unchanged. Did you mean {close[0]}?")
    return endpoint


def _print_task(task: Task, *, as_json: bool) -> None:
    if as_json:
        render.print_json(task.raw)
        return
    render.print_line(task.id)
    if render.is_terminal() and not task.is_finished:
        render.notice(f"State: {task.state}. Wait for the result: kling-receiver tasks wait {task.id}")
