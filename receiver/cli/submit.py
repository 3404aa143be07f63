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
from receiver.cli.job_file import ALL_IN, Given, is_many, read_jobs
from receiver.cli.options import READING, Reading, UsageError, duration, pairs, typed
from receiver.client import SyncClient, Task
from receiver.domain.errors import InvalidRequest, Unreadable
from receiver.domain.model import Json, TaskState
from receiver.kling.endpoints import CATALOGUE, Endpoint, fill_images, resolve
from receiver.kling.images import base64_image
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
    reading: Reading = READING,
) -> int:
    """Submit a task to Kling, through the running service."""
    limit = duration("--timeout", timeout) if timeout else None
    if limit and not wait:
        raise UsageError("--timeout is for waiting.", remedy="Add --wait.")
    loaded = load(reading.config)
    if body is not None and is_many(body):
        if set_ or image or limit:
            raise UsageError("--set, --image and --timeout are for one job.", remedy="Say it on each line of the file.")
        many = None if endpoint is None else find_endpoint(endpoint)
        given = Given(endpoint=many, dialect=loaded.settings.kling.dialect, label=label, priority=priority)
        given = replace(given, batch=_batch(batch, batch_size))
        given = replace(given, tags=pairs("--tag", tag or []), run=idempotency_key or "")
        return _submit_many(Path(body[1:]), given, wait=wait, close=close_batch, reading=reading)
    if close_batch and batch is None:
        raise _nothing_to_close()
    if endpoint is None:
        raise UsageError("Which endpoint?", remedy="Name it: kling-receiver submit images/multi-image2image ...")
    known = find_endpoint(endpoint)
    content = _fill(known, _set(read_body(body), set_ or []), image or [], loaded.settings.kling.dialect)
    told: dict[str, Any] = {"label": label, "tags": pairs("--tag", tag or []), "batch": _batch(batch, batch_size)}
    told |= {"priority": priority, "idempotency_key": idempotency_key}
    return _submit_one(known.path, content, told, close=close_batch, wait=wait, limit=limit, reading=reading)


def _submit_one(
    path: str, body: Json, told: dict[str, Any], *, close: bool, wait: bool, limit: timedelta | None, reading: Reading
) -> int:
    with typed(), SyncClient(config=reading.config) as client:
        task = client.submit(path, body, **told)
        if close:
            client.close_batch(told["batch"]["name"], why=ALL_IN)
        if wait:
            from receiver.cli.task_wait import wait as wait_for

            return wait_for(client, task.id, timeout=limit, as_json=reading.json)
    return _told(task, as_json=reading.json)


def _batch(name: str | None, size: int | None) -> Json | None:
    if name is None and size is not None:
        raise UsageError("--batch-size is the size of a batch.", remedy="Name it with --batch.")
    return None if name is None else {"name": name, "size": size}


def _nothing_to_close() -> UsageError:
    return UsageError("--close-batch closes a batch.", remedy="Name it with --batch, or on the lines of the file.")


def _submit_many(path: Path, given: Given, *, wait: bool, close: bool, reading: Reading) -> int:
    from receiver.cli.bulk_submit import hand_in

    jobs = read_jobs(path, given)
    batches = sorted({job.batch_name for job in jobs if job.batch_name is not None}) if close else []
    if close and not batches:
        raise _nothing_to_close()
    return hand_in(jobs, config=reading.config, close=batches, wait=wait, as_json=reading.json)


def _told(task: Task, *, as_json: bool) -> int:
    """Show the task as it was taken, and say so where it was not."""
    from receiver.cli.task_wait import disappointment

    _tell(task, as_json=as_json)
    if task.state != TaskState.REJECTED:
        return OK
    if as_json:
        return FAILED
    raise disappointment(task, 0)


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
    except Unreadable as exc:
        hint = "Write {...}, @FILE or -."
        raise UsageError(f"--body is no JSON object: {exc.message}", remedy=hint) from exc


def _set(body: Json, settings: list[str]) -> Json:
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
        place[last] = _value(value)
    return body


def _value(text: str) -> object:
    try:
        value: object = json.loads(text, parse_constant=_not_json)
    except ValueError:
        return text
    return value


def _not_json(word: str) -> None:
    raise ValueError(word)  # NaN and Infinity are text, not numbers


def _fill(endpoint: Endpoint, body: Json, images: list[str], dialect: Dialect) -> Json:
    """Put images, files as base64, where the endpoint wants them."""
    try:
        return fill_images(endpoint, body, [i if i.startswith(_URLS) else base64_image(i) for i in images], dialect)
    except InvalidRequest as exc:
        raise UsageError(f"--image: {exc.message}", remedy=exc.remedy) from exc


def _tell(task: Task, *, as_json: bool) -> None:
    if as_json:
        render.as_json(task.raw)
        return
    render.line(task.id)
    if render.is_terminal():
        render.note(f"Now {task.state}. See the end of it with: kling-receiver tasks wait {task.id}")
