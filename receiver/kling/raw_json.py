"""Takes JSON text apart without writing it anew, so that what is not ours to change stays as its author wrote it.

Reading a number and writing it again may change it (``1E3``, twenty decimals, an integer for a peer that reads
doubles), and so may an escape. A slice of the text cannot. All of this expects text that has been read before
by :func:`receiver.kling.protocol.parse_object`, so that only its places are looked for, not its faults.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\n\r]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class RawMember:
    """One ``"key": value`` of an object, as text and as the place of its value."""

    key: str
    text: str
    value_at: int


def members(text: str, at: int = 0) -> Iterator[RawMember]:
    """Give the members of the object that begins at *at*, in their order, repeated keys and all."""
    at = _skip_space(text, _skip_space(text, at) + 1)
    while text[at] != "}":
        start = _skip_space(text, at + 1) if text[at] == "," else at
        key, key_end = _DECODER.raw_decode(text, start)
        value_at = _skip_space(text, _skip_space(text, key_end) + 1)
        end = _value_end(text, value_at)
        yield RawMember(key=key, text=text[start:end], value_at=value_at)
        at = _skip_space(text, end)


def elements(text: str, at: int = 0) -> Iterator[int]:
    """Give the place of each element of the array that begins at *at*."""
    at = _skip_space(text, _skip_space(text, at) + 1)
    while text[at] != "]":
        start = _skip_space(text, at + 1) if text[at] == "," else at
        yield start
        at = _skip_space(text, _value_end(text, start))


def at_path(text: str, path: Sequence[str | int]) -> str:
    """Give the text of the value that *path*, of keys and indexes, leads to. Of a repeated key the last counts."""
    at = _skip_space(text, 0)
    for step in path:
        if isinstance(step, int):
            at = list(elements(text, at))[step]
        else:
            at = [member.value_at for member in members(text, at) if member.key == step][-1]
    return text[at : _value_end(text, at)]


def join_members(parts: Sequence[str]) -> str:
    """Put members' texts together to an object's."""
    return "{" + ",".join(parts) + "}"


def _value_end(text: str, at: int) -> int:
    return _DECODER.raw_decode(text, at)[1]


def _skip_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at
