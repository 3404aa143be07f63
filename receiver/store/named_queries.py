"""Reads named statements from SQL files: a database's own, and those in ``store/sql`` that both databases run alike.

A line that ends in ``-- if NAME`` is optional: it is omitted unless that argument is given.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from functools import cache
from pathlib import Path

import msgspec

_NAME = re.compile(r"^-- name: (?P<name>\w+)$", re.MULTILINE)
_OPTIONAL = re.compile(r"^(?P<line>.*?) -- if (?P<argument>\w+)$")
_MANY = ":many"


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """One named statement and its purpose in one sentence."""

    name: str
    purpose: str
    sql: str

    def with_optional(self, arguments: Mapping[str, object]) -> str:
        """Return the statement without the optional lines whose argument is None or absent."""
        return _with_optional(self.sql, frozenset(name for name, value in arguments.items() if value is not None))

    def with_list(self, count: int) -> str:
        """Return the statement with *count* placeholders instead of ``:many``."""
        return self.sql.replace(_MANY, ", ".join("?" * count))


def read_queries(folder: Path) -> Mapping[str, Query]:
    """Return the statements in the SQL files of a database's *folder* and the shared ones, by name."""
    files = (file for each in (Path(__file__).with_name("sql"), folder) for file in sorted(each.glob("*.sql")))
    return _by_name(query for file in files for query in parse(file.read_text(encoding="utf-8")).values())


def parse(text: str) -> Mapping[str, Query]:
    """Parse named statements: a line ``-- name: NAME``, comment lines with the purpose, then the SQL."""
    _, *parts = _NAME.split(text)
    return _by_name(_query(name, block) for name, block in zip(parts[::2], parts[1::2], strict=True))


def _query(name: str, block: str) -> Query:
    lines = block.strip().splitlines()
    purpose = [line.removeprefix("--").strip() for line in lines if line.startswith("--")]
    body = [line for line in lines if not line.startswith("--")]
    return Query(name=name, purpose=" ".join(purpose), sql="\n".join(body).strip().rstrip(";"))


def _by_name(queries: Iterable[Query]) -> Mapping[str, Query]:
    found: dict[str, Query] = {}
    for query in queries:
        if query.name in found:
            raise ValueError(f"two queries have the name {query.name}")
        found[query.name] = query
    return found


@cache
def _with_optional(statement: str, given: frozenset[str]) -> str:
    lines = (_resolve_optional(line, given) for line in statement.splitlines())
    return "\n".join(line for line in lines if line is not None)


def _resolve_optional(line: str, given: Collection[str]) -> str | None:
    """Return a plain line as it is, and an optional line without its marker or None."""
    optional = _OPTIONAL.match(line)
    if optional is None:
        return line
    return optional["line"] if optional["argument"] in given else None
