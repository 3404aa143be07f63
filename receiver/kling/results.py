"""Finds the results in a task: where Kling documents them, or in a shape that a gateway is known to send. Pure."""

from collections.abc import Callable, Mapping, Sequence

from receiver.domain.model import Json
from receiver.domain.results import URL_SCHEMES, has_part

MAX_ENTRIES = 1000
"""The most entries of one list that are read. Kling makes at most nine images per task."""

_OUTPUT_KINDS: Mapping[str, str] = {
    "image": "images",
    "video": "videos",
    "audio": "audios",
    "voice": "voices",
    "element": "elements",
}
_MAX_DEPTH = 6
_TOP_NAMES: Mapping[str, str] = {
    **dict.fromkeys(("task_result", "result", "results", "output", "outputs", "works", "data"), ""),
    **dict.fromkeys(("videos", "video", "video_url", "video_urls"), "videos"),
    "images": "images",
    **dict.fromkeys(("audios", "audio_url"), "audios"),
    **dict.fromkeys(("result_url", "result_urls", "output_url", "download_url", "url", "urls", "metadata"), ""),
}
"""Members of a task that may hold its result, the likeliest first, and the kind that each one implies.

``image`` and ``image_url`` are missing because gateways repeat the input there.
"""
_INNER_NAMES: Mapping[str, str] = {
    **_TOP_NAMES,
    **dict.fromkeys(("image", "image_url", "image_urls"), "images"),
    "audio": "audios",
    **dict.fromkeys(("resource", "file", "file_url", "content", "uri"), ""),
}


def parse_result(task: Json, *, nested: Callable[[Json], Json]) -> Mapping[str, tuple[Json, ...]]:
    """Return the results of a task that has succeeded, by kind. *nested* returns the task inside a wrapper.

    If no entry of a documented member has a URL, Kling's answer under ``data`` is read, then the shapes of gateways.
    """
    found = documented_result(task)
    if has_part(found):
        return found
    inner = task.get("data")
    if isinstance(inner, dict):
        found = parse_result(nested(inner), nested=nested) or found
    if not has_part(found):
        found = _group(_find_named(task, _TOP_NAMES, "", _MAX_DEPTH)) or found
    return found


def documented_result(task: Json) -> Mapping[str, tuple[Json, ...]]:
    """Return the results under ``task_result`` and ``outputs``, by kind."""
    results = task.get("task_result")
    found: dict[str, list[Json]] = {}
    if isinstance(results, dict):
        found = {kind: entries for kind, listed in results.items() if (entries := _entries(listed))}
    for output in _entries(task.get("outputs")):
        found.setdefault(_kind_of(output), []).append(output)
    return {kind: tuple(entries) for kind, entries in found.items()}


def _group(found: Sequence[tuple[str, Json]]) -> Mapping[str, tuple[Json, ...]]:
    grouped: dict[str, list[Json]] = {}
    for kind, entry in found:
        grouped.setdefault(kind, []).append(entry)
    return {kind: tuple(entries) for kind, entries in grouped.items()}


def _entries(value: object) -> list[Json]:
    """Return a result's entries from a list of objects, a list of URLs, or one object with a URL."""
    if isinstance(value, dict):
        return [value] if isinstance(value.get("url"), str) else []
    if not isinstance(value, list):
        return []
    entries = [{"url": entry} if isinstance(entry, str) else entry for entry in value[:MAX_ENTRIES] if entry]
    return [entry for entry in entries if isinstance(entry, dict)]


def _kind_of(output: Json) -> str:
    type_ = output.get("type")
    kind = type_.lower() if isinstance(type_, str) else ""
    return _OUTPUT_KINDS.get(kind, kind or "outputs")


def _find_named(holder: Json, names: Mapping[str, str], kind: str, depth: int) -> list[tuple[str, Json]]:
    """Return the entries under the first of the *names* that has any."""
    for name, implied in names.items():
        if name in holder and (found := _find(holder[name], implied or kind, depth - 1)):
            return found
    return []


def _find(value: object, kind: str, depth: int) -> list[tuple[str, Json]]:
    match value:
        case str() if value.startswith(URL_SCHEMES):
            return [(kind or "outputs", {"url": value})]
        case list() if depth > 0:
            return [found for each in value[:MAX_ENTRIES] for found in _find(each, kind, depth - 1)]
        case dict() if isinstance(url := value.get("url"), str) and url.startswith(URL_SCHEMES):
            return [(kind or _kind_of(value), value)]
        case dict() if depth > 0:
            return _find_named(value, _INNER_NAMES, kind, depth)
    return []
