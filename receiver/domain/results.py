"""Rules for a task's result: whether it is complete, and whether two are the same. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

Result: TypeAlias = Mapping[str, Sequence[Mapping[str, Any]]]
"""Entries as Kling wrote them, by kind: ``images``, ``videos``, ..."""

URL_SCHEMES = ("http://", "https://")
_KINDS_WITHOUT_URL = ("voices", "elements")


def has_result(result: Result) -> bool:
    """Return whether a result has entries, and a client can use each of them."""
    usable = list(_usable(result))
    return bool(usable) and all(usable)


def has_part(result: Result) -> bool:
    """Return whether a client can use at least one entry of a result."""
    return any(_usable(result))


def _usable(result: Result) -> Iterator[bool]:
    """Yield for each entry whether it has a URL. A voice or an element may have only an id."""
    for kind, entries in result.items():
        yield from (kind in _KINDS_WITHOUT_URL or _has_url(entry) for entry in entries)


def _has_url(entry: Mapping[str, Any]) -> bool:
    if "url" in entry:
        url = entry["url"]
        return bool(url.strip() if isinstance(url, str) else url)
    return any(isinstance(value, str) and value.startswith(URL_SCHEMES) for value in entry.values())


def without_queries(result: Result) -> Mapping[str, Sequence[Mapping[str, Any]]]:
    """Return a result without the queries of its URLs, which hold signatures that change with every answer."""
    return {
        kind: [{name: _without_query(value) for name, value in entry.items()} for entry in entries]
        for kind, entries in result.items()
    }


def _without_query(value: object) -> object:
    if isinstance(value, str) and value.startswith(URL_SCHEMES):
        return value.partition("?")[0]
    return value
