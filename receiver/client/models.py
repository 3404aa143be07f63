"""What the service tells, as values and errors. Each value keeps all that was said in ``raw``."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Generic, Self, TypeVar

from receiver.domain.batches import BatchState
from receiver.domain.errors import Conflict, InvalidRequest, NotFound, ReceiverError, RequestFailed
from receiver.domain.model import ArchiveState, Json, TaskState

FINAL_STATES = frozenset((TaskState.SUCCEED, TaskState.FAILED, TaskState.REJECTED, TaskState.EXPIRED))

_ERROR_BY_CODE: Mapping[str, type[ReceiverError]] = {e.code: e for e in (InvalidRequest, NotFound, Conflict)}

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A task as it stood when it was asked about. ``result`` and ``assets`` are empty in a list."""

    id: str
    state: str
    message: str = ""
    endpoint: str | None = None
    label: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    batch: str | None = None
    kling_id: str | None = None
    external_task_id: str | None = None
    result: Mapping[str, Sequence[Json]] = field(default_factory=dict, repr=False)
    assets: Sequence[Json] = field(default=(), repr=False)
    raw: Json = field(default_factory=dict, repr=False)

    @classmethod
    def from_json(cls, raw: Json) -> Self:
        """Read a task from the API's object."""
        return cls(
            id=raw["id"],
            state=raw["state"],
            message=raw.get("message") or "",
            endpoint=raw.get("endpoint"),
            label=raw.get("label"),
            tags=raw.get("tags") or {},
            batch=raw.get("batch"),
            kling_id=raw.get("kling_id"),
            external_task_id=raw.get("external_task_id"),
            result=raw.get("result") or {},
            assets=raw.get("assets") or (),
            raw=raw,
        )

    @property
    def succeeded(self) -> bool:
        """Whether Kling has made what was asked for."""
        return self.state == TaskState.SUCCEED

    @property
    def is_archiving(self) -> bool:
        """Whether its results are on their way home, and its routes are told when they are there."""
        return self.raw.get("archiving") == ArchiveState.PENDING

    @property
    def is_finished(self) -> bool:
        """Whether nothing more is to be waited for: its state is an end, and no result is on its way home."""
        return self.state in FINAL_STATES and not self.is_archiving

    @property
    def fingerprint(self) -> object:
        """What has changed where two looks differ."""
        return self.state, self.is_archiving

    @property
    def poll_every(self) -> float | None:
        """How many seconds apart to look: of files on their way home no event tells."""
        return 1.0 if self.is_archiving else None

    @property
    def result_locations(self) -> Sequence[str]:
        """Where its results are: what was brought home, as near as it is kept, and Kling's URLs of what was not."""
        home = {asset.get("url"): asset.get("path") or asset.get("storage") for asset in self.assets}
        urls = [entry["url"] for entries in self.result.values() for entry in entries if entry.get("url")]
        return tuple(dict.fromkeys(str(home.get(url) or url) for url in [*urls, *home]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Tasks that are told of together: ``tasks`` is how many it has taken in, ``counts`` how many are in each state."""

    name: str
    state: str
    tasks: int
    size: int | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    event_id: str | None = None
    raw: Json = field(default_factory=dict, repr=False)

    @classmethod
    def from_json(cls, raw: Json) -> Self:
        """Read a batch from the API's object."""
        return cls(
            name=raw["name"],
            state=raw["state"],
            tasks=raw["tasks"],
            size=raw.get("size"),
            counts=raw.get("counts") or {},
            event_id=raw.get("event_id"),
            raw=raw,
        )

    @property
    def summary(self) -> str:
        """How its tasks stand, in words."""
        return ", ".join(f"{number} {state}" for state, number in self.counts.items()) or "no task is kept any more"

    @property
    def finished_count(self) -> int:
        """How many of its tasks are over."""
        return sum(number for state, number in self.counts.items() if state in FINAL_STATES)

    @property
    def is_finished(self) -> bool:
        """Whether all its tasks are over, and that was told by an event."""
        return self.state == BatchState.FINISHED

    @property
    def succeeded(self) -> bool:
        """Whether Kling has made all that was asked for."""
        return self.is_finished and set(self.counts) <= {TaskState.SUCCEED}

    @property
    def fingerprint(self) -> object:
        """What has changed where two looks differ."""
        return self.state, self.tasks, self.counts

    @property
    def poll_every(self) -> float | None:
        """How many seconds apart to look; no event tells of all that can be seen."""
        return 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened. ``raw`` is the object that destinations receive, ``data`` its main part."""

    id: str
    type: str
    timestamp: str
    task_id: str | None = None
    raw: Json = field(default_factory=dict, repr=False)

    @classmethod
    def from_json(cls, raw: Json) -> Self:
        """Read an event from the API's object."""
        data = raw.get("data") or {}
        return cls(
            id=data["event_id"],
            type=raw["type"],
            timestamp=raw.get("timestamp") or "",
            task_id=(data.get("task") or {}).get("id"),
            raw=raw,
        )

    @property
    def data(self) -> Json:
        """What happened to which task, with its result and Kling's own words."""
        data: Json = self.raw.get("data") or {}
        return data


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Generic[T]):
    """Part of a list; ``next`` is the cursor of the part that follows, None at the end."""

    items: Sequence[T]
    next: str | None = None
    raw: Json = field(default_factory=dict, repr=False)

    @classmethod
    def from_json(cls, raw: Json, parse_item: Callable[[Json], T]) -> Self:
        """Read a page from the API's object, each item by *read*."""
        return cls(items=[parse_item(each) for each in raw["items"]], next=raw.get("next"), raw=raw)


class TaskNotFinished(ReceiverError, TimeoutError):
    """A task was not over in the time it was waited for; ``task`` is how it stood last."""

    code = "task_not_over"

    def __init__(self, task: Task) -> None:
        super().__init__(
            f"Task {task.id} is still {task.state}.",
            remedy=f"It goes on by itself; wait again with `kling-receiver tasks wait {task.id}`.",
        )
        self.task = task


class BatchNotFinished(ReceiverError, TimeoutError):
    """A batch was not finished in the time it was waited for; ``batch`` is how it stood last."""

    code = "batch_not_over"

    def __init__(self, batch: Batch) -> None:
        is_open = batch.state == BatchState.OPEN
        close = f"nobody has closed it: kling-receiver batches close {batch.name}"
        super().__init__(
            f"Batch {batch.name} is still {batch.state}: {batch.summary}.",
            remedy=f"It is not finished while {close}" if is_open else "It goes on by itself; wait for it again.",
        )
        self.batch = batch


def parse_object(content: str | bytes) -> Json:
    """Read an answer's JSON object."""
    try:
        value: Any = json.loads(content)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise RequestFailed(
            "What answers at the admin address does not speak our API.",
            remedy="Check [admin] listen: another program may have taken the port.",
        )
    return value


def to_error(status: int, content: bytes) -> ReceiverError:
    """Read an answer that is not what was asked for."""
    if status == HTTPStatus.UNAUTHORIZED:
        return RequestFailed(
            "The service does not take our admin token.",
            remedy="Name the configuration it runs on with --config, so that the right token is found.",
            status=status,
        )
    try:
        problem = parse_object(content)
    except ReceiverError:
        problem = {}
    sentence = str(problem.get("detail") or problem.get("title") or f"The service answered {status}.")
    if known := _ERROR_BY_CODE.get(str(problem.get("code"))):
        return known(sentence)
    return RequestFailed(sentence, status=status)
