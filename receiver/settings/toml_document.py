"""config.toml as values, with the line number of each, for error messages.

The standard library parses the file but keeps no positions. :class:`_Scanner` reads the same text again and can rely
on valid TOML.
"""

import re
import tomllib
from bisect import bisect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from receiver.domain.errors import ConfigurationError

Location: TypeAlias = tuple[str | int, ...]

_POSITION = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")
_QUOTES = 'text must be in quotes: key = "text"'
_HINTS = {
    "Invalid value": _QUOTES,
    "Expected newline or end of document after a statement": _QUOTES,
    "Cannot overwrite a value": "the key is given twice; keep one",
    "Expected '=' after a key in a key/value pair": "a line must be a [section], or key = value",
    "Illegal character": "text must be on one line between quotes",
}
_BLANKS = re.compile(r"[ \t]*")
_SPACE_AND_COMMENTS = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_KEY_PART = re.compile(r"""[A-Za-z0-9_-]+|"(?:[^"\\]|\\.)*"|'[^']*'""")
_STRING = re.compile(
    r'''"""(?:[^\\]|\\.)*?"""(?:"{0,2})|\'\'\'.*?\'\'\'(?:'{0,2})|"(?:[^"\\]|\\.)*"|'[^']*\'''', re.DOTALL
)
_BARE_VALUE = re.compile(r"[^,\]}#\n]*")


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """The file's values, their line numbers (from 1), and the file's name for messages."""

    label: str = ""
    values: Mapping[str, Any] = msgspec.field(default_factory=dict)
    lines: Mapping[Location, int] = msgspec.field(default_factory=dict)


def dotted(location: Location) -> str:
    """Return a location as text: ``routes.0.webhook.url``."""
    return ".".join(str(part) for part in location)


def read(path: Path, *, label: str) -> Document:
    """Read a configuration file; raise ConfigurationError if it cannot be read."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise ConfigurationError([f"{label}: the file does not exist; check its path"]) from None
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "this is not a path"
        remedy = "make it readable for the service's user, or use another file"
        raise ConfigurationError([f"{label}: cannot be read: {reason}; {remedy}"]) from None
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = content[: exc.start].count(b"\n") + 1
        raise ConfigurationError([f"{label}:{line}: is not UTF-8 text; save the file as UTF-8"]) from None
    return parse(text, label=label)


def parse(text: str, *, label: str) -> Document:
    """Parse a file's text into values with line numbers."""
    text = text.replace("\r\n", "\n")
    try:
        values = tomllib.loads(text)
        lines = _Scanner(text).scan()
    except tomllib.TOMLDecodeError as exc:
        raise ConfigurationError([_describe_error(exc, text, label)]) from None
    except RecursionError:
        raise ConfigurationError([f"{label}: is nested too deeply; no setting needs that"]) from None
    except ValueError:
        # tomllib passes on errors of int() and date(), such as for numbers of thousands of digits.
        raise ConfigurationError([f"{label}: has an invalid number or date; put text in quotes"]) from None
    return Document(label=label, values=values, lines=lines)


def _describe_error(exc: tomllib.TOMLDecodeError, text: str, label: str) -> str:
    message = str(exc)
    position = _POSITION.search(message)
    what = _POSITION.sub("", message)
    hint = next((f"; {each}" for start, each in _HINTS.items() if what.startswith(start)), "")
    if position and position[1]:
        return f"{label}:{position[1]}: is not TOML: {what} at column {position[2]}{hint}"
    return f"{label}:{text.count(chr(10)) + 1}: is not TOML: {what} at the end of the file{hint}"


class _Scanner:
    """Finds the line of each key and each list entry."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._position = 0
        self._line_breaks = [match.start() for match in re.finditer("\n", text)]
        self._tables: dict[Location, int] = {}
        self._lines: dict[Location, int] = {}

    def scan(self) -> Mapping[Location, int]:
        """Return the line of each location in the file."""
        table: Location = ()
        self._skip(_SPACE_AND_COMMENTS)
        while self._position < len(self._text):
            if self._text.startswith("[", self._position):
                table = self._header()
            else:
                self._pair(table)
            self._skip(_SPACE_AND_COMMENTS)
        return self._lines

    def _header(self) -> Location:
        line = self._line()
        repeats = self._text.startswith("[[", self._position)
        self._position += 2 if repeats else 1
        table: Location = ()
        keys = self._keys()
        for depth, key in enumerate(keys, start=1):
            table = (*table, key)
            self._lines.setdefault(table, line)
            if repeats and depth == len(keys):
                self._tables[table] = self._tables.get(table, -1) + 1
            if table in self._tables:
                table = (*table, self._tables[table])
                self._lines.setdefault(table, line)
        self._position += 2 if repeats else 1
        return table

    def _pair(self, table: Location) -> None:
        line = self._line()
        for key in self._keys():
            table = (*table, key)
            self._lines.setdefault(table, line)
        self._position += 1  # the equals sign
        self._skip(_BLANKS)
        self._value(table)

    def _keys(self) -> list[str]:
        keys = []
        while True:
            self._skip(_BLANKS)
            key = self._skip(_KEY_PART)
            keys.append(tomllib.loads(f"key = {key}")["key"] if key[:1] in ('"', "'") else key)
            self._skip(_BLANKS)
            if not self._text.startswith(".", self._position):
                return keys
            self._position += 1

    def _value(self, location: Location) -> None:
        opening = self._text[self._position : self._position + 1]
        if opening in ('"', "'"):
            self._skip(_STRING)
        elif opening == "[":
            self._list(location)
        elif opening == "{":
            self._inline_table(location)
        else:
            self._skip(_BARE_VALUE)

    def _list(self, location: Location) -> None:
        self._position += 1
        number = 0
        self._skip(_SPACE_AND_COMMENTS)
        while not self._closes("]"):
            self._lines[(*location, number)] = self._line()
            self._value((*location, number))
            self._separator()
            number += 1

    def _inline_table(self, location: Location) -> None:
        self._position += 1
        self._skip(_SPACE_AND_COMMENTS)
        while not self._closes("}"):
            self._pair(location)
            self._separator()

    def _separator(self) -> None:
        self._skip(_SPACE_AND_COMMENTS)
        if self._text.startswith(",", self._position):
            self._position += 1
            self._skip(_SPACE_AND_COMMENTS)

    def _closes(self, bracket: str) -> bool:
        if self._position >= len(self._text):
            return True
        found = self._text.startswith(bracket, self._position)
        self._position += found
        return found

    def _skip(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self._text, self._position)
        if not match:
            # Not reached with valid TOML. Newer syntax would lose line numbers, but not cause an endless loop.
            self._position = len(self._text)
            return ""
        self._position = match.end()
        return match[0]

    def _line(self) -> int:
        return bisect(self._line_breaks, self._position - 1) + 1
