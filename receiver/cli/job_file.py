"""Reads a file of jobs, one per line. All lines are checked before any job is submitted."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from receiver.cli.options import UsageError
from receiver.domain.errors import ReceiverError
from receiver.domain.model import Json
from receiver.kling.create_body import compose
from receiver.kling.endpoints import Endpoint, resolve
from receiver.kling.images import base64_image, fill_images
from receiver.kling.protocol import parse_object
from receiver.kling.strict_json import strip_mark
from receiver.settings import Dialect

BATCH_CLOSE_REASON = "all jobs were submitted"
"""The reason in the audit log when a command closes the batch that it filled."""

_URLS = ("http://", "https://")
_MAX_FAULTS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One job of the file. Its idempotency key prevents a second submission.

    Local images are read when it is submitted.
    """

    line: int
    endpoint: Endpoint
    body: Json
    images: Sequence[str]
    key: str
    dialect: Dialect
    label: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    batch: Any = None
    priority: int = 0
    reuse: bool = False
    reply: str | None = None

    @property
    def batch_name(self) -> str | None:
        """The name of its batch, or None."""
        name: str | None = self.batch["name"] if isinstance(self.batch, dict) else self.batch
        return name

    def body_with_images(self) -> Json:
        """Return the body with its images filled in."""
        return fill_images(self.endpoint, self.body, [_image_content(image) for image in self.images], self.dialect)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobDefaults:
    """Values from the command line for members that a line lacks. A new ``run`` gives every job a new key.

    If it ``is_new``, also the jobs with a key of their own.
    """

    endpoint: Endpoint | None
    dialect: Dialect
    label: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    batch: Json | None = None
    priority: int = 0
    reuse: bool = False
    reply: str | None = None
    run: str = ""
    is_new: bool = False


def is_job_file(argument: str | None) -> bool:
    """Return whether ``--body`` names a file of jobs."""
    return argument is not None and argument.startswith("@") and argument.endswith((".jsonl", ".ndjson"))


def read_jobs(path: Path, defaults: JobDefaults) -> Sequence[Job]:
    """Read all jobs of a file. Raises UsageError that lists every invalid line with its fault."""
    from receiver.web.server.problems import Problem  # imports the web; a single job does not need it

    jobs, faults = list[Job](), list[str]()
    seen: Counter[str] = Counter()
    for number, line in _read_lines(path):
        try:
            jobs.append(_parse_job(number, line, path.parent, defaults, seen))
        except ReceiverError as exc:
            # A JSON error counts lines within the body, which is always line 1; the file's line number is right.
            faults.append(f"  line {number}: {exc.message.replace('line 1 column', 'column')}")
        except Problem as exc:
            faults.append(f"  line {number}: {exc.detail}")
    if faults:
        omitted = len(faults) - _MAX_FAULTS
        more = [f"  and {omitted} more"] if omitted > 0 else []
        count = f"{len(faults)} lines of {path} are not jobs" if len(faults) > 1 else f"A line of {path} is not a job"
        raise UsageError(
            "\n".join([f"{count}; nothing was submitted:", *faults[:_MAX_FAULTS], *more]),
            remedy='A line must be an object with a "body", or Kling\'s body for the endpoint of the command.',
        )
    if not jobs:
        raise UsageError(f"{path} is empty.", remedy="Write one JSON object on each line.")
    return jobs


def _read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if content := strip_mark(line).strip():
                    yield number, content
    except OSError as exc:
        raise UsageError(f"Cannot read --body @{path}: {exc.strerror}.", remedy="Check the path.") from exc


def _parse_job(number: int, line: bytes, folder: Path, defaults: JobDefaults, seen: Counter[str]) -> Job:
    from receiver.web.api_requests import JobLine
    from receiver.web.params import validate

    content = parse_object(line)
    if "body" not in content:
        content = {"body": content}
    fields = validate(JobLine, content)
    endpoint = _resolve_endpoint(fields.endpoint or None, defaults)
    job = Job(
        line=number,
        endpoint=endpoint,
        body=fields.body,
        images=[_resolve_image(image, folder) for image in _image_list(fields.image)],
        key=_own_key(fields.idempotency_key, defaults),
        dialect=defaults.dialect,
        label=fields.label or defaults.label,
        tags={**defaults.tags, **fields.tags},
        batch=content.get("batch") or defaults.batch,
        priority=defaults.priority if content.get("priority") is None else fields.priority,
        reuse=fields.reuse or defaults.reuse,
        reply=fields.reply or defaults.reply,
    )
    filled = json.dumps(job.body_with_images(), sort_keys=True).encode()
    compose(filled, generation=endpoint.generation, callback_url=None, external_task_id="tsk")
    return job if job.key else _with_key(job, filled, defaults.run, seen)


def _own_key(key: str | None, defaults: JobDefaults) -> str:
    """Return the line's own key, or an empty string. A new run makes another key of it."""
    return f"{key}-{defaults.run}" if key and defaults.is_new else key or ""


def _with_key(job: Job, content: bytes, run: str, seen: Counter[str]) -> Job:
    """Return the job with a key derived from its content; a repeated line is a separate job."""
    identity = [run, job.endpoint.path, job.label, dict(job.tags), job.batch]
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode() + content).hexdigest()[:40]
    seen[digest] += 1
    return replace(job, key=f"line-{digest}-{seen[digest]}")


def _resolve_endpoint(name: str | None, defaults: JobDefaults) -> Endpoint:
    if name is None:
        if defaults.endpoint is None:
            raise UsageError("neither the line nor the command names an endpoint.")
        return defaults.endpoint
    found = resolve(name)
    if found is None:
        raise UsageError(f"{name!r} is not a Kling endpoint with callbacks.")
    return found


def _image_list(value: object) -> list[str]:
    texts = [value] if isinstance(value, str) else value
    if texts is None:
        return []
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise UsageError("'image' must be a file, a URL, or a list of these.")
    return texts


def _resolve_image(image: str, folder: Path) -> str:
    return image if image.startswith(_URLS) else str(folder / image)


def _image_content(image: str) -> str:
    return image if image.startswith(_URLS) else base64_image(image)
