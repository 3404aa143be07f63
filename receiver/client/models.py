"""The API's objects as values, and its errors as exceptions. ``raw`` is the complete JSON object.

``domain/api_schema`` defines the members. One with a default may be missing, so that lists and older services work.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from http import HTTPStatus
from typing import Any, Self, TypeVar

from receiver.domain.api_schema import json_object
from receiver.domain.api_schema import tasks as api
from receiver.domain.api_schema.tasks import TASK_REFUSED
from receiver.domain.batches import BatchState
from receiver.domain.errors import Conflict, InvalidRequest, NotFound, ReceiverError, RequestFailed, UnknownRoute
from receiver.domain.listed_state import ListedState
from receiver.domain.model import ArchiveState, Json, TaskState

FINAL_STATES = frozenset(
    (
        ListedState.SUCCEED,
        ListedState.FAILED,
        ListedState.REJECTED,
        ListedState.CANCELLED,
        ListedState.EXPIRED,
    )
)

_ERROR_BY_CODE: Mapping[str, type[ReceiverError]] = {
    error.code: error for error in (InvalidRequest, UnknownRoute, NotFound, Conflict)
}

T = TypeVar("T")


def _members(kind: type[api.Task | api.Batch | api.TaskCost], raw: Json) -> Json:
    """Return the members that the class has. Null stands for the default, and unknown members stay in ``raw``."""
    return {each.name: raw[each.name] for each in fields(kind) if raw.get(each.name) is not None}


@dataclass(frozen=True, kw_only=True)
class Task(api.TaskDetails):
    """A task at the time of the request. ``result`` and ``assets`` are empty in a list."""

    raw: Json = field(default_factory=dict, repr=False)

    @classmethod
    def from_json(cls, raw: Json) -> Self:
        """Parse a task from the API's object."""
        cost = raw.get("cost")
        parsed = None if cost is None else api.TaskCost(**_members(api.TaskCost, cost))
        return cls(**{**_members(cls, raw), "cost": parsed, "raw": raw})

    @property
    def succeeded(self) -> bool:
        """Whether Kling has produced the results."""
        return self.state == TaskState.SUCCEED

    @property
    def is_archiving(self) -> bool:
        """Whether its results are still being archived; routes receive its event afterwards."""
        return self.archiving == ArchiveState.PENDING

    @property
    def is_finished(self) -> bool:
        """Whether its state is final and no result is still being archived."""
        return self.state in FINAL_STATES and not self.is_archiving

    @property
    def fingerprint(self) -> object:
        """Differs whenever there is something new to report."""
        return self.state, self.is_archiving

    @property
    def poll_every(self) -> float | None:
        """The maximum number of seconds between polls, since no event reports the progress of the archive."""
        return 1.0 if self.is_archiving else None

    @property
    def result_locations(self) -> Sequence[str]:
        """The results' locations: path or storage URL of archived files, Kling's URL of the others."""
        archived = {asset.get("url"): asset.get("path") or asset.get("storage") for asset in self.assets}
        urls = [entry["url"] for entries in self.result.values() for entry in entries if entry.get("url")]
        return tuple(dict.fromkeys(str(archived.get(url) or url) for url in [*urls, *archived]))


@dataclass(frozen=True, kw_only=True)
class Batch(api.Batch):
    """A group of tasks with one final event. ``tasks`` is their number, ``counts`` how many are in each state."""

    raw: Json = field(default_factory=dict, repr=False)

    @classmethod
    def from_json(cls, raw: Json) -> Self:
        """Parse a batch from the API's object."""
        return cls(**{**_members(cls, raw), "raw": raw})

    @property
    def summary(self) -> str:
        """The number of tasks in each state, as text."""
        return (
            ", ".join(f"{number} {state}" for state, number in self.counts.items())
            or "none of its tasks are stored any more"
        )

    @property
    def finished_count(self) -> int:
        """The number of its tasks in a final state."""
        return sum(number for state, number in self.counts.items() if state in FINAL_STATES)

    @property
    def is_finished(self) -> bool:
        """Whether all its tasks are finished and the final event is stored."""
        return self.state == BatchState.FINISHED

    @property
    def succeeded(self) -> bool:
        """Whether all its tasks succeeded."""
        return self.is_finished and set(self.counts) <= {TaskState.SUCCEED}

    @property
    def fingerprint(self) -> object:
        """Differs whenever there is something new to report."""
        return self.state, self.tasks, self.counts

    @property
    def poll_every(self) -> float | None:
        """The maximum number of seconds between polls, since not every change has an event."""
        return 1.0


@dataclass(frozen=True, kw_only=True)
class Event:
    """An event. ``raw`` is the object that destinations receive, ``data`` its main part.

    Its members depend on its type; ``domain/api_schema/events`` defines them.
    """

    id: str
    type: str
    timestamp: str
    task_id: str | None = None
    raw: Json = field(default_factory=dict, repr=False)

    @classmethod
    def from_json(cls, raw: Json) -> Self:
        """Parse an event from the API's object."""
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
        """The task, its new state, its result and Kling's message."""
        data: Json = self.raw.get("data") or {}
        return data


@dataclass(frozen=True, kw_only=True)
class Page(json_object.Page[T]):
    """One page of a list. ``next`` is the cursor of the next page, None at the end."""

    raw: Json = field(default_factory=dict, repr=False)

    @classmethod
    def from_json(cls, raw: Json, parse_item: Callable[[Json], T]) -> Self:
        """Parse a page from the API's object, each item with *parse_item*."""
        return cls(items=[parse_item(each) for each in raw["items"]], next=raw.get("next"), raw=raw)


class TaskNotFinished(ReceiverError, TimeoutError):
    """A task was not finished within the timeout. ``task`` is its last known state."""

    code = "task_not_over"

    def __init__(self, task: Task) -> None:
        super().__init__(
            f"Task {task.id} is still {task.state}.",
            remedy=f"The task continues. Wait again with `kling-receiver tasks wait {task.id}`.",
        )
        self.task = task


class BatchNotFinished(ReceiverError, TimeoutError):
    """A batch was not finished within the timeout. ``batch`` is its last known state."""

    code = "batch_not_over"

    def __init__(self, batch: Batch) -> None:
        is_open = batch.state == BatchState.OPEN
        close = f"Close it with `kling-receiver batches close {batch.name}`: an open batch is never finished."
        super().__init__(
            f"Batch {batch.name} is still {batch.state}: {batch.summary}.",
            remedy=close if is_open else "The batch continues. Wait for it again.",
        )
        self.batch = batch


def parse_object(content: str | bytes) -> Json:
    """Parse a response's JSON object; raise RequestFailed if it is not one."""
    try:
        value: Any = json.loads(content)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise RequestFailed(
            "The response from the admin address is not a JSON object of this API.",
            remedy="Check [admin] listen: another program may use the port.",
        )
    return value


class TaskRefused(RequestFailed):
    """Kling refused a submit. ``task`` is the rejected task, with the reason in its message."""

    code = TASK_REFUSED

    def __init__(self, message: str, *, status: int, task: Task) -> None:
        super().__init__(message, status=status)
        self.task = task


def to_error(status: int, content: bytes) -> ReceiverError:
    """Return the exception for an error response."""
    if status == HTTPStatus.UNAUTHORIZED:
        return RequestFailed(
            "The service rejected the admin token.",
            remedy="Pass the service's configuration with `--config`, so that the right token is used.",
            status=status,
        )
    try:
        problem = parse_object(content)
    except ReceiverError:
        problem = {}
    message = str(problem.get("detail") or problem.get("title") or "")
    if known := _ERROR_BY_CODE.get(str(problem.get("code"))):
        return known(message)
    if problem.get("code") == TASK_REFUSED and isinstance(problem.get("task"), dict):
        return TaskRefused(message, status=status, task=Task.from_json(problem["task"]))
    if not message:
        return RequestFailed(
            f"The answer with status {status} is not from Kling Receiver.",
            remedy="Check [admin] listen, or the URL: another program may use this address.",
            status=status,
        )
    return RequestFailed(message, status=status)
