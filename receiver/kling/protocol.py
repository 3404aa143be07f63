"""Kling's bodies, read and written: both generations, bare or wrapped, and whatever gateways make of them. Pure.

Reading is tolerant, because a push that is refused is a push lost: anything that is a JSON object is read as far as
it goes, and what cannot be told apart is left open for somebody who can. What *is* JSON is judged strictly, so that
two readers of one body cannot see two things.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias
from urllib.parse import urlsplit

from receiver.domain.errors import InvalidRequest, MalformedBody
from receiver.domain.model import Generation, Json, StatusReport, TaskState
from receiver.kling import ballast, costs, raw_json

MAX_DEPTH = 200  # well within what Python reads and writes without running out of stack
MAX_ID = 512  # longer than any id seen, shorter than what an index may hold
_MAX_WRAPPERS = 3

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
_OUTPUT_KINDS: Mapping[str, str] = {
    "image": "images",
    "video": "videos",
    "audio": "audios",
    "voice": "voices",
    "element": "elements",
}
_Path: TypeAlias = tuple[str | int, ...]


def parse_status(body: bytes, *, task_id: str | None = None) -> StatusReport:
    """Tell what a body says about a task; of a list of tasks, about the one called *task_id* or the only one.

    Takes callbacks and Kling's answers alike. Raises Unreadable for what is no JSON object, and for nothing else.
    """
    document, ambiguous = _parse_strictly(body)
    task, _ = _locate(document, task_id)
    if task is None:
        return StatusReport(state=None, has_duplicate_keys=ambiguous)
    word = _text(task.get("task_status")) or _text(task.get("status"))
    state = _parse_state(word)
    info = task.get("task_info")
    own_id = info.get("external_task_id") if isinstance(info, dict) else None
    return StatusReport(
        state=state,
        raw_status=word,
        message=_message(task, state),
        kling_id=_id(task.get("task_id")) or _id(task.get("id")),
        external_task_id=_id(own_id) or _id(task.get("external_task_id")) or _id(task.get("external_id")),
        generation=_generation(task),
        result=_result(task),
        cost=costs.parse_cost(task, lambda: _parse_task_exactly(body, task_id)),
        has_duplicate_keys=ambiguous,
    )


def _parse_task_exactly(body: bytes, task_id: str | None) -> Json:
    """Read the task in a body once more, with its fractions as they are written."""
    return _locate(json.loads(body, parse_float=costs.parse_decimal), task_id)[0] or {}


def parse_object(body: bytes) -> Json:
    """Read a JSON object as strictly as the standard has it: UTF-8, no mark before it, finite numbers, sane depth."""
    return _parse_strictly(body)[0]


def is_object(body: bytes) -> bool:
    """Tell whether a body is a JSON object, as all that Kling says is."""
    try:
        parse_object(body)
    except MalformedBody:
        return False
    return True


def unwrap_task(body: bytes, *, task_id: str | None = None) -> bytes:
    """Give the task object of an answer in the callback's own shape, each byte of it as Kling wrote it.

    A body that has no wrapper, or nothing in it, comes back as it is. Raises Unreadable as :func:`read` does.
    """
    task, path = _locate(_parse_strictly(body)[0], task_id)
    if not task or not path:
        return body
    return raw_json.at_path(body.decode(), path).encode()


def split_tasks(body: bytes) -> Sequence[bytes]:
    """Give the tasks that an answer lists, each in the callback's own shape; none where it lists no tasks.

    Raises Unreadable as :func:`read` does.
    """
    if not isinstance(_parse_strictly(body)[0].get("data"), list):
        return ()
    listed = raw_json.at_path(body.decode(), ("data",))
    tasks = (raw_json.at_path(listed[at:], ()) for at in raw_json.elements(listed))
    return [task.encode() for task in tasks if task.startswith("{")]


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateBody:
    """A create's body made ours: ``content`` to send, and what the client had asked for itself.

    ``reply_to`` is the client's own callback URL, ``external_task_id`` the id the task will carry ("" for none),
    ``asked`` the body as it was read, in which something else stands for each picture.
    """

    content: bytes
    parsed: Json
    reply_to: str | None
    external_task_id: str


def compose(
    body: bytes, *, generation: Generation, callback_url: str | None, external_task_id: str | None
) -> CreateBody:
    """Put our callback URL into a client's body in place of its own, and our id where it gave none.

    All other members go through as the client wrote them. Without *callback_url* none is asked for.
    """
    light = ballast.extract_blobs(body)
    document = _parse_extracted(light, body)
    place = "options" if generation is Generation.NEW else None
    asked = document if place is None else _options(document)
    reply_to = _parse_callback_url(asked.get("callback_url"))
    own_id = _parse_external_task_id(asked.get("external_task_id")) or external_task_id or ""
    ours = {"callback_url": callback_url, "external_task_id": own_id}
    content = light.restore(_replace_members(light.text.decode(), place, ours).encode())
    return CreateBody(content=content, parsed=document, reply_to=reply_to, external_task_id=own_id)


def _parse_extracted(extracted: ballast.ExtractedBlobs, body: bytes) -> Json:
    try:
        return parse_object(extracted.text)
    except MalformedBody:
        return parse_object(body)  # whose complaint names the right place


def _replace_members(text: str, container: str | None, replacements: Mapping[str, str | None]) -> str:
    """Write *ours* into the object, or into its member *place*, and leave out what stood there by these names."""
    whole = list(raw_json.members(text))
    if container is None:
        kept = [member.text for member in whole if member.key not in replacements]
        return raw_json.join_members(kept + _member_texts(replacements))
    held = [member.value_at for member in whole if member.key == container]
    inner: list[str] = []
    if held and text[held[-1]] == "{":
        inner = [member.text for member in raw_json.members(text, held[-1]) if member.key not in replacements]
    kept = [member.text for member in whole if member.key != container]
    if inner := inner + _member_texts(replacements):
        kept.append(f"{json.dumps(container)}:{raw_json.join_members(inner)}")
    return raw_json.join_members(kept)


def _member_texts(values: Mapping[str, str | None]) -> list[str]:
    return [f"{json.dumps(key)}:{json.dumps(value)}" for key, value in values.items() if value]


def _options(document: Json) -> Json:
    options = document.get("options")
    if options is None:
        return {}
    if not isinstance(options, dict):
        raise InvalidRequest("`options` is not an object.", remedy='Write it as {"callback_url": "https://..."}.')
    return options


def _parse_callback_url(value: object) -> str | None:
    if value is None or value == "":
        return None
    if isinstance(value, str) and _is_http_url(value):
        return value
    raise InvalidRequest(
        "`callback_url` is not an http or https URL.", remedy="Give one as a string, or leave the key out."
    )


def _is_http_url(url: str) -> bool:
    if not url.isprintable() or " " in url:
        return False
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _parse_external_task_id(value: object) -> str | None:
    if value is None or value == "":
        return None
    if isinstance(value, str) and _storable(value) == value and len(value) <= MAX_ID:
        return value
    raise InvalidRequest(
        "`external_task_id` is not a string that can be kept.",
        remedy=f"Give a string of at most {MAX_ID} characters, or leave the key out.",
    )


# -- JSON, strictly


class _DuplicateKeyDetector:
    """One reading of a JSON text; notices a key that stands twice in one object."""

    __slots__ = ("has_duplicate_keys",)

    def __init__(self) -> None:
        self.has_duplicate_keys = False

    def build_object(self, pairs: list[tuple[str, Any]]) -> Json:
        made = dict(pairs)
        if len(made) != len(pairs):
            self.has_duplicate_keys = True
        return made


def _parse_strictly(body: bytes) -> tuple[Json, bool]:
    noticed = _DuplicateKeyDetector()
    decoder = json.JSONDecoder(
        object_pairs_hook=noticed.build_object, parse_constant=_reject_constant, parse_float=_parse_finite
    )
    try:
        text = body.decode()
        document = decoder.decode(text)
    except (ValueError, RecursionError) as exc:  # a ValueError also for an integer of more digits than Python reads
        raise MalformedBody(_describe_error(exc)) from None
    if not isinstance(document, dict):
        raise MalformedBody("The body is JSON and no object.", remedy="Send one JSON object.")
    if text.count("[") + text.count("{") > MAX_DEPTH and _depth(document) > MAX_DEPTH:
        raise MalformedBody(f"The body is nested more than {MAX_DEPTH} levels deep.")
    return document, noticed.has_duplicate_keys


def _describe_error(exc: ValueError | RecursionError) -> str:
    """Say what is wrong with a body without a word of what it says."""
    match exc:
        case UnicodeDecodeError():
            return f"The body is not UTF-8: byte {exc.start}."
        case json.JSONDecodeError():
            return f"The body is not JSON: {exc.msg}, line {exc.lineno} column {exc.colno}."
        case RecursionError():
            return f"The body is nested more than {MAX_DEPTH} levels deep."
        case _:
            return "The body has a number that cannot be read: not finite, or of too many digits."


def _reject_constant(_constant: str) -> NoReturn:
    raise ValueError


def _parse_finite(digits: str) -> float:
    number = float(digits)
    if number in (float("inf"), float("-inf")):
        raise ValueError
    return number


def _depth(value: object) -> int:
    depth = 0
    level: list[object] = [value]
    while level := [inner for outer in level for inner in _nested_values(outer)]:
        depth += 1
    return depth + 1


def _nested_values(value: object) -> Iterator[object]:
    match value:
        case dict():
            yield from (inner for inner in value.values() if isinstance(inner, dict | list))
        case list():
            yield from (inner for inner in value if isinstance(inner, dict | list))


# -- the task in a body


def _locate(document: Json, task_id: str | None) -> tuple[Json | None, _Path]:
    """Find the object that is the task, and the way to it: at the top, or under the ``data`` of a wrapper."""
    found: Json = document
    path: _Path = ()
    for _ in range(_MAX_WRAPPERS):
        inner = found.get("data")
        if "task_status" in found or not isinstance(inner, dict | list):
            break
        if "code" not in found and "status" in found and ("id" in found or "task_id" in found):
            break
        path = (*path, "data")
        if isinstance(inner, list):
            at = _pick(inner, task_id)
            if at is None:
                return None, ()
            inner = inner[at]
            path = (*path, at)
        found = inner
    return found, path


def _pick(tasks: Sequence[Any], task_id: str | None) -> int | None:
    """Choose from a list of tasks: the one that goes by *task_id*, else the only one."""
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
    """Find why the task is as it is.

    A ``message`` beside a ``code`` or ``request_id`` is the HTTP call's, which says SUCCEED of a failed task too.
    """
    reason = _text(task.get("task_status_msg"))
    if reason:
        return reason
    of_the_call = "code" in task or "request_id" in task
    if not of_the_call and (_generation(task) is Generation.NEW or state is TaskState.FAILED):
        reason = _text(task.get("message"))
    if not reason and state is TaskState.FAILED:
        error = task.get("error")
        reason = _text(task.get("fail_reason")) or _text(error.get("message") if isinstance(error, dict) else error)
    return reason


def _result(task: Json) -> Mapping[str, tuple[Json, ...]]:
    """Gather what the task made, by kind. Some gateways give one ``url``, or keep Kling's answer under ``data``."""
    found: dict[str, tuple[Json, ...]] = {}
    made = task.get("task_result")
    if isinstance(made, dict):
        for kind, entries in made.items():
            if some := _entries(entries):
                found[kind] = some
    for output in _entries(task.get("outputs")):
        kind = _text(output.get("type")).lower()
        kind = _OUTPUT_KINDS.get(kind, kind or "outputs")
        found[kind] = (*found.get(kind, ()), output)
    url = task.get("url")
    if not found and isinstance(url, str) and url:
        found["outputs"] = ({"url": url},)
    inner = task.get("data")
    if not found and isinstance(inner, dict):
        made_there, _ = _locate(inner, None)
        return _result(made_there or {})
    return found


def _entries(value: object) -> tuple[Json, ...]:
    """Take a list of objects, of bare URLs, or one object that has a URL, as entries of a result."""
    if isinstance(value, dict):
        return (value,) if isinstance(value.get("url"), str) else ()
    if not isinstance(value, list):
        return ()
    entries = ({"url": entry} if isinstance(entry, str) else entry for entry in value if entry)
    return tuple(entry for entry in entries if isinstance(entry, dict))


def _id(value: object) -> str | None:
    """Take an id as the opaque text it is; a float too large to be exact is none rather than a wrong one."""
    text: str | None = None
    match value:
        case bool():
            return None
        case str():
            text = _storable(value.strip())[:MAX_ID]
        case int():
            text = str(value)[:MAX_ID]
        case float() if value.is_integer():
            text = str(int(value)) if abs(value) < 2**53 else None
        case float():
            text = repr(value)
    return text or None


def _text(value: object) -> str:
    match value:
        case str():
            return _storable(value)
        case bool():
            return str(value).lower()
        case int() | float():
            return str(value)
        case _:
            return ""


def _storable(text: str) -> str:
    """Spell out what no database and no terminal takes: halves of a surrogate pair, and NUL."""
    if text.isascii() and "\0" not in text:
        return text
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")
