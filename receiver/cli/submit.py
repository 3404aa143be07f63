"""`kling-receiver submit`: a job for Kling from the command line."""

import json
import sys
from dataclasses import replace
from datetime import timedelta
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, TypeAlias

from cyclopts import Parameter

from receiver.cli import FAILED, OK, render
from receiver.cli.job_file import BATCH_CLOSE_REASON, JobDefaults, is_job_file, read_jobs
from receiver.cli.options import OUTPUT, OutputOptions, UsageError, duration, key_values, usage_errors
from receiver.client import SyncClient, Task
from receiver.domain.errors import InvalidRequest, MalformedBody
from receiver.domain.model import Json, TaskState
from receiver.kling.endpoints import CATALOGUE, Endpoint, resolve
from receiver.kling.images import base64_image, fill_images
from receiver.kling.protocol import parse_object
from receiver.settings import Dialect, load

_URLS = ("http://", "https://")


Members: TypeAlias = Annotated[
    list[str] | None,
    Parameter(name="--set", help="A member of the body, key=value: JSON if it parses, else text; a.b=1 nests."),
]
Images: TypeAlias = Annotated[list[str] | None, Parameter(help="An image: a file, or a URL; many times for several.")]
Body: TypeAlias = Annotated[
    str | None,
    Parameter(
        allow_leading_hyphen=True,
        help="JSON, @FILE, or - for stdin; --set and --image add to it. @FILE.jsonl: many jobs, one on each line.",
    ),
]
Size: TypeAlias = Annotated[
    int | None, Parameter(help="With --batch: of how many tasks it is; else it is closed by `batches close`.")
]
Close: TypeAlias = Annotated[
    bool,
    Parameter(
        negative=(),
        help="Close the batch once all is handed in: batch.finished follows when all of its tasks are over.",
    ),
]
Key: TypeAlias = Annotated[
    str | None,
    Parameter(
        help="The same key again gives the first task, no second one. With many jobs: another key runs all anew."
    ),
]


def submit(
    endpoint: Annotated[str | None, Parameter(help="Kling's, such as images/multi-image2image.")] = None,
    /,
    *,
    set_: Members = None,
    image: Images = None,
    body: Body = None,
    label: Annotated[str | None, Parameter(help="A name for the task, for yourself.")] = None,
    tag: Annotated[list[str] | None, Parameter(help="A tag, key=value, that routes can look at; many times.")] = None,
    priority: Annotated[int, Parameter(help="Of what waits for a slot the higher goes first; 0 if not given.")] = 0,
    batch: Annotated[str | None, Parameter(help="The batch it belongs to: tasks that are told of together.")] = None,
    batch_size: Size = None,
    close_batch: Close = False,
    idempotency_key: Key = None,
    wait: Annotated[bool, Parameter(help="Wait until the task is over, and print where its results are.")] = False,
    timeout: Annotated[str | None, Parameter(help="With --wait: stop waiting after so long, such as 10m.")] = None,
    output: OutputOptions = OUTPUT,
) -> int:
    """Submit a task to Kling, through the running service."""
    limit = duration("--timeout", timeout) if timeout else None
    if limit and not wait:
        raise UsageError("--timeout is for waiting.", remedy="Add --wait.")
    loaded = load(output.config)
    if body is not None and is_job_file(body):
        if set_ or image or limit:
            raise UsageError("--set, --image and --timeout are for one job.", remedy="Say it on each line of the file.")
        many = None if endpoint is None else find_endpoint(endpoint)
        given = JobDefaults(endpoint=many, dialect=loaded.settings.kling.dialect, label=label, priority=priority)
        given = replace(given, batch=_batch_json(batch, batch_size))
        given = replace(given, tags=key_values("--tag", tag or []), run=idempotency_key or "")
        return _submit_many(Path(body[1:]), given, wait=wait, close=close_batch, output=output)
    if close_batch and batch is None:
        raise _nothing_to_close_error()
    if endpoint is None:
        raise UsageError("Which endpoint?", remedy="Name it: kling-receiver submit images/multi-image2image ...")
    known = find_endpoint(endpoint)
    content = _fill_images(known, _set_members(read_body(body), set_ or []), image or [], loaded.settings.kling.dialect)
    told: dict[str, Any] = {
        "label": label,
        "tags": key_values("--tag", tag or []),
        "batch": _batch_json(batch, batch_size),
    }
    told |= {"priority": priority, "idempotency_key": idempotency_key}
    return _submit_one(known.path, content, told, close=close_batch, wait=wait, limit=limit, output=output)


def _submit_one(
    path: str,
    body: Json,
    options: dict[str, Any],
    *,
    close: bool,
    wait: bool,
    limit: timedelta | None,
    output: OutputOptions,
) -> int:
    with usage_errors(), SyncClient(config=output.config) as client:
        task = client.submit(path, body, **options)
        if close:
            client.close_batch(options["batch"]["name"], why=BATCH_CLOSE_REASON)
        if wait:
            from receiver.cli.task_wait import wait as wait_for

            return wait_for(client, task.id, timeout=limit, as_json=output.json)
    return _report_task(task, as_json=output.json)


def _batch_json(name: str | None, size: int | None) -> Json | None:
    if name is None and size is not None:
        raise UsageError("--batch-size is the size of a batch.", remedy="Name it with --batch.")
    return None if name is None else {"name": name, "size": size}


def _nothing_to_close_error() -> UsageError:
    return UsageError("--close-batch closes a batch.", remedy="Name it with --batch, or on the lines of the file.")


def _submit_many(path: Path, defaults: JobDefaults, *, wait: bool, close: bool, output: OutputOptions) -> int:
    from receiver.cli.bulk_submit import submit_all

    jobs = read_jobs(path, defaults)
    batches = sorted({job.batch_name for job in jobs if job.batch_name is not None}) if close else []
    if close and not batches:
        raise _nothing_to_close_error()
    return submit_all(jobs, config=output.config, close_batches=batches, wait=wait, as_json=output.json)


def _report_task(task: Task, *, as_json: bool) -> int:
    """Show the task as it was taken, and say so where it was not."""
    from receiver.cli.task_wait import failure_message

    _print_task(task, as_json=as_json)
    if task.state != TaskState.REJECTED:
        return OK
    if as_json:
        return FAILED
    raise failure_message(task, 0)


def find_endpoint(path: str) -> Endpoint:
    """Find an endpoint by its path, known to us or new."""
    endpoint = resolve(path)
    if endpoint is None:
        name = path.strip("/").removeprefix("v1/")
        if name in CATALOGUE:
            raise UsageError(
                f"{name} answers at once and calls nobody back: there is no task to wait for.",
                remedy=f"Call it through the gateway, POST /kling/v1/{name} at the admin listener.",
            )
        callers = [each.path for each in CATALOGUE.values() if each.asynchronous]
        close = get_close_matches(name, callers, n=1, cutoff=0.5)
        raise UsageError(
            f"{path!r} is not an endpoint of Kling's that calls back.",
            remedy=f"Did you mean {close[0]}?" if close else "One that does is images/multi-image2image.",
        )
    return endpoint


def read_body(argument: str | None) -> Json:
    """Read the body from the argument itself, a file (``@FILE``) or stdin (``-``)."""
    if argument is None:
        return {}
    try:
        if argument in ("-", "@-"):
            content = sys.stdin.buffer.read()
        elif argument.startswith("@"):
            content = Path(argument[1:]).read_bytes()
        else:
            content = argument.encode()
        return parse_object(content)
    except OSError as exc:
        raise UsageError(f"--body {argument} cannot be read ({exc.strerror}).", remedy="Check its name.") from exc
    except MalformedBody as exc:
        hint = "Write {...}, @FILE or -."
        raise UsageError(f"--body is no JSON object: {exc.message}", remedy=hint) from exc


def _set_members(body: Json, settings: list[str]) -> Json:
    """Set members of the body, one after the other."""
    for text in settings:
        path, equals, value = text.partition("=")
        *parents, last = path.split(".")
        if not equals or not all((*parents, last)):
            raise UsageError(f"--set {text!r} is not of the form key=value.", remedy="Write --set prompt='a cat'.")
        place: Any = body
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise UsageError(f"--set {path} leads through {parent}, which is no object.", remedy="Set that first.")
        place[last] = _parse_value(value)
    return body


def _parse_value(text: str) -> object:
    try:
        value: object = json.loads(text, parse_constant=_reject_constant)
    except ValueError:
        return text
    return value


def _reject_constant(word: str) -> None:
    raise ValueError(word)  # NaN and Infinity are text, not numbers


def _fill_images(endpoint: Endpoint, body: Json, images: list[str], dialect: Dialect) -> Json:
    """Put images, files as base64, where the endpoint wants them."""
    try:
        return fill_images(endpoint, body, [i if i.startswith(_URLS) else base64_image(i) for i in images], dialect)
    except InvalidRequest as exc:
        raise UsageError(f"--image: {exc.message}", remedy=exc.remedy) from exc


def _print_task(task: Task, *, as_json: bool) -> None:
    if as_json:
        render.print_json(task.raw)
        return
    render.print_line(task.id)
    if render.is_terminal():
        render.notice(f"Now {task.state}. See the end of it with: kling-receiver tasks wait {task.id}")
