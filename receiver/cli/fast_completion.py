"""Proposes values to a shell without the parser of command lines, from ``completion.json``.

A shell waits for each completion. The parser takes most of that time, and a place in a line needs only the names of
commands and options. Every line that is not plain is left to the parser.
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_TABLE = Path(__file__).with_name("completion.json")

Options = Mapping[str, str | None]


@dataclass(frozen=True, slots=True)
class _Value:
    raw: str


@dataclass(frozen=True, slots=True)
class LineContext:
    """The values of the options on the line, as ``completion_candidates`` reads them."""

    given: Mapping[str, str]

    def get(self, name: str) -> _Value | None:
        """Return an option's value, or None."""
        return _Value(self.given[name]) if name in self.given else None


def complete(words: Sequence[str]) -> bool:
    """Print the candidates for the last word. Return False, having printed nothing, if the parser must decide."""
    place = find_place(words, json.loads(_TABLE.read_text("utf-8")))
    if place is None:
        return False
    from receiver.cli import completion_candidates

    kind, context = place
    propose: Callable[[LineContext], Sequence[str | tuple[str, str]]] = getattr(completion_candidates, kind)
    lines = ["", "\x1fbegin"]  # the generated shell scripts ignore everything before this mark
    for each in propose(context):
        value, text = (each, "") if isinstance(each, str) else each
        lines.append(f"{_flat(value)}\t{_flat(text)}")
    sys.stdout.write("\n".join([*lines, ""]))
    return True


def find_place(words: Sequence[str], table: Mapping[str, Any]) -> tuple[str, LineContext] | None:
    """Return what to propose for the last word, with the options given; None if a line is not plain."""
    *before, current = words or [""]
    if current.startswith("-") or any(word == "--" or "=" in word for word in before):
        return None
    count = next((size for size in (3, 2, 1) if " ".join(before[:size]) in table and len(before) >= size), 0)
    if not count:
        return None
    command = table[" ".join(before[:count])]
    kind, given = _walk(before[count:], command)
    return (kind, LineContext(given)) if kind else None


def _walk(words: Sequence[str], command: Mapping[str, Any]) -> tuple[str, Mapping[str, str]]:
    """Return the kind of the value that follows *words*, and the values of the options among them."""
    options: Options = command["options"]
    given: dict[str, str] = {}
    position, rest = 0, list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-"):
            position += 1
        elif word not in options:
            return "", {}
        elif options[word] is not None:
            if not rest:
                return options[word] or "", given
            given[word] = rest.pop(0)
    positions: Sequence[str] = command["positions"]
    if position < len(positions):
        return positions[position], given
    return (positions[-1] if positions and command["repeats"] else ""), given


def _flat(text: str) -> str:
    return text.replace("\t", " ").replace("\n", " ").replace("\r", " ").lstrip("\x1f")
