"""Parses Kling's bodies: both generations, bare or wrapped, and the variants that gateways send. Pure.

Parsing is tolerant, because a refused push is a lost push: any JSON object is accepted, and unclear fields stay empty.
JSON itself is checked strictly and within limits (:mod:`receiver.kling.strict_json`).
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from receiver.domain.errors import MalformedBody
from receiver.domain.model import Generation, Json, StatusReport, TaskState
from receiver.kling import costs, raw_json, results, strict_json
from receiver.kling.strict_json import strip_mark

MAX_DEPTH = strict_json.MAX_DEPTH
MAX_ID = 512  # longer than any known id, short enough for a database index
_MAX_STATUS = 100  # it is logged
_MAX_WRAPPERS = 3
_MIN_MILLIS, _MAX_MILLIS = 10**12, 10**13

_STATE_BY_STATUS: Mapping[str, TaskState] = {
    word: state
    for state, words in {
        TaskState.SUBMITTED: "submitted pending queued waiting",
        TaskState.PROCESSING: "processing in_progress running generating",
        TaskState.SUCCEED: "succeed succeeded success completed",
        TaskState.FAILED: "failed fail failure error timeout cancelled canceled",
    }.items()
    for word in words.split()
}
_Path: TypeAlias = tuple[str | int, ...]


def parse_status(body: bytes, *, task_id: str | None = None) -> StatusReport:
    """Return what a callback or an answer reports about a task.

    From a list of tasks it takes the task with *task_id*, else the only one. Raises MalformedBody if the body is not
    a JSON object or exceeds the limits of a body about one task, and nothing else.
    """
    document, ambiguous = strict_json.parse(body, max_tokens=strict_json.MAX_TASK_TOKENS)
    task, _ = _locate(document, task_id)
    if task is None:
        return StatusReport(state=None, has_duplicate_keys=ambiguous)
    word = _text(task.get("task_status")) or _text(task.get("status"))
    state = _parse_state(word)
    info = task.get("task_info")
    own_id = info.get("external_task_id") if isinstance(info, dict) else None
    return StatusReport(
        state=state,
        raw_status=word[:_MAX_STATUS],
        message=_message(task, state),
        kling_id=_id(task.get("task_id")) or _id(task.get("id")),
        external_task_id=_id(own_id) or _id(task.get("external_task_id")) or _id(task.get("external_id")),
        generation=_generation(task),
        result=_result(task, state),
        cost=costs.parse_cost(task, lambda: _parse_task_exactly(body, task_id)),
        has_duplicate_keys=ambiguous,
        updated_at=_seconds(task.get("updated_at", task.get("update_time"))),
    )


def _result(task: Json, state: TaskState | None) -> Mapping[str, tuple[Json, ...]]:
    if state is TaskState.SUCCEED:
        return results.parse_result(task, nested=lambda inner: _locate(inner, None)[0] or {})
    return results.documented_result(task)


def _parse_task_exactly(body: bytes, task_id: str | None) -> Json:
    """Parse the task in a body again, with exact fractions."""
    return _locate(strict_json.parse_with_floats(body, costs.parse_decimal), task_id)[0] or {}


def parse_object(body: bytes) -> Json:
    """Parse a JSON object strictly: UTF-8, finite numbers, at most MAX_DEPTH levels. A byte order mark is ignored."""
    return strict_json.parse(body)[0]


def is_object(body: bytes) -> bool:
    """Return whether a body is a JSON object, as every body from Kling is."""
    try:
        parse_object(body)
    except MalformedBody:
        return False
    return True


def unwrap_task(body: bytes, *, task_id: str | None = None) -> bytes:
    """Return the task object of an answer, byte for byte, in the shape of a callback.

    A body without a wrapper, or without a task, is returned unchanged. Raises MalformedBody like
    :func:`parse_status`, which reports the same task for both bodies.
    """
    task, path = _locate(parse_object(body), task_id)
    if not task or not path:
        return body
    return raw_json.at_path(strip_mark(body).decode(), path).encode()


def split_tasks(body: bytes) -> Sequence[bytes]:
    """Return the tasks that an answer lists, each in the shape of a callback; empty if it lists none.

    Raises MalformedBody like :func:`parse_status`.
    """
    if not isinstance(parse_object(body).get("data"), list):
        return ()
    listed = raw_json.at_path(strip_mark(body).decode(), ("data",))
    tasks = (listed[start:end] for start, end in raw_json.elements(listed))
    return [task.encode() for task in tasks if task.startswith("{")]


# -- the task in a body


def _locate(document: Json, task_id: str | None) -> tuple[Json | None, _Path]:
    """Return the task object and its path: at the top, or below ``data`` of at most _MAX_WRAPPERS wrappers.

    Deeper than that there is no task. So the task found is never a wrapper itself, and looking again finds the same.
    """
    if "task_status" in document:
        return document, ()
    found: Json = document
    path: _Path = ()
    for _ in range(_MAX_WRAPPERS):
        if not _is_wrapper(found):
            return found, path
        inner = found["data"]
        path = (*path, "data")
        if isinstance(inner, list):
            at = _pick(inner, task_id)
            if at is None:
                return None, ()
            inner = inner[at]
            path = (*path, at)
        found = inner
    return (None, ()) if _is_wrapper(found) else (found, path)


def _is_wrapper(document: Json) -> bool:
    if "task_status" in document or not isinstance(document.get("data"), dict | list):
        return False
    return "code" in document or "status" not in document or not ("id" in document or "task_id" in document)


def _pick(tasks: Sequence[Any], task_id: str | None) -> int | None:
    """Return the index of the task with *task_id*, else of the only task, else None."""
    at = [number for number, task in enumerate(tasks) if isinstance(task, dict)]
    if task_id is not None:
        named = [number for number in at if task_id in _ids_of(tasks[number])]
        if named:
            return named[0]
    return at[0] if len(at) == 1 else None


def _ids_of(task: Json) -> set[str | None]:
    info = task.get("task_info")
    own_id = info.get("external_task_id") if isinstance(info, dict) else None
    others = (task.get(key) for key in ("task_id", "id", "external_task_id", "external_id"))
    return {_id(own_id), *map(_id, others)}


def _generation(task: Json) -> Generation:
    if "task_id" in task or "task_status" in task:
        return Generation.LEGACY
    return Generation.NEW if "id" in task or "status" in task or "outputs" in task else Generation.LEGACY


def _parse_state(status: str) -> TaskState | None:
    return _STATE_BY_STATUS.get(status) or _STATE_BY_STATUS.get(
        status.strip().lower().replace("-", "_").replace(" ", "_")
    )


def _message(task: Json, state: TaskState | None) -> str:
    """Return the reason for the task's state.

    A ``message`` beside a ``code`` or ``request_id`` belongs to the HTTP call and is SUCCEED even for a failed task.
    """
    reason = _text(task.get("task_status_msg"))
    if reason:
        return reason
    is_call_message = "code" in task or "request_id" in task
    if not is_call_message and (state is TaskState.FAILED or _generation(task) is Generation.NEW):
        reason = _text(task.get("message"))
    if not reason and state is TaskState.FAILED:
        error = task.get("error")
        reason = _text(task.get("fail_reason")) or _text(error.get("message") if isinstance(error, dict) else error)
    return reason


def _id(value: object) -> str | None:
    """Return an id as opaque text; None for a float too large to be exact, because a wrong id is worse."""
    text: str | None = None
    if isinstance(value, str):  # these two first, because nearly all are one of them
        return storable(value.strip())[:MAX_ID] or None
    if value is None:
        return None
    match value:
        case bool():
            return None
        case int():
            text = str(value)[:MAX_ID]
        case float() if value.is_integer():
            text = str(int(value)) if abs(value) < 2**53 else None
        case float():
            text = repr(value)
    return text or None


def _seconds(value: object) -> float | None:
    """Return Kling's milliseconds as seconds; None for anything that is not a time between 2001 and 2286."""
    return value / 1000 if type(value) is int and _MIN_MILLIS <= value < _MAX_MILLIS else None


def _text(value: object) -> str:
    if isinstance(value, str):  # first, because nearly all are
        return storable(value)
    match value:
        case bool():
            return str(value).lower()
        case int() | float():
            return str(value)
        case _:
            return ""


def storable(text: str) -> str:
    """Escape what no database or terminal accepts: single surrogates and NUL."""
    if text.isascii() and "\0" not in text:
        return text
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")
