"""Parses JSON strictly and within limits. Pure.

Strictly, so that two parsers of one body cannot read different values. Within limits, because anyone who knows a
callback URL can send a body that is small and takes long to parse. The limits are checked first, on the bytes.
"""

import codecs
import json
import re
from collections.abc import Callable
from typing import Any, NoReturn

import msgspec

from receiver.domain.errors import MalformedBody
from receiver.domain.model import Json

MAX_DEPTH = 200  # Python reads and writes this without exhausting its stack

MAX_TOKENS = 100_000
"""The most tokens of a body: strings, brackets, commas and colons. A list of 100 tasks has about 20,000.

Parsing holds Python's lock, even in a thread of its own; this many take at most 25 ms.
"""

MAX_TASK_TOKENS = 20_000
"""The most tokens of a body about one task. Kling sends a few hundred; this many take about 10 ms to parse."""

_MAX_ESCAPES = 500_000
_MAX_DIGITS = 4300  # Python's own limit for integers

# A string without an end takes the rest of the body, so that no byte is looked at twice. Blanks are skipped at once.
_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[\]{},:]|[ \t\r\n]{64,}+', re.DOTALL)
_KEY_END = re.compile(rb'"[ \t\r\n]*:')
_FAST_SIZE = 4096
_decode_fast = msgspec.json.Decoder().decode
_encode_fast = msgspec.json.Encoder().encode
_OPENING = frozenset(b"[{")
_CLOSING = frozenset(b"]}")


def parse(body: bytes, *, max_tokens: int = MAX_TOKENS) -> tuple[Json, bool]:
    """Return a JSON object, and whether one of its objects has a key twice.

    Accepts UTF-8, finite numbers and at most MAX_DEPTH levels. A byte order mark is ignored. Raises MalformedBody.
    """
    _check_limits(body, max_tokens)
    if len(body) <= _FAST_SIZE and (parsed := _parse_fast(body)) is not None:
        return parsed, False
    detector = _DuplicateKeyDetector()
    decoder = json.JSONDecoder(
        object_pairs_hook=detector.build_object,
        parse_constant=_reject_constant,
        parse_float=_parse_finite,
        parse_int=_parse_integer,
    )
    document = _decode(decoder, body)
    if not isinstance(document, dict):
        raise MalformedBody("The body is JSON but not an object.", remedy="Send one JSON object.")
    return document, detector.has_duplicate_keys


def _parse_fast(body: bytes) -> Json | None:
    """Return the object in a body, or None if only the slow way can tell what it is.

    The fast parser keeps the last of two equal keys. A body that is the same when written again has none. In any other
    body there are then fewer keys than strings followed by a colon. Strings may contain such text too, so a difference
    proves nothing, and the slow way decides.
    """
    try:
        document = _decode_fast(body)
    except ValueError:  # also of half a surrogate pair, which the slow way accepts
        return None
    if not isinstance(document, dict):
        return None
    if _encode_fast(document) == body or _count_keys(document) == len(_KEY_END.findall(body)):
        return document
    return None


def _count_keys(value: object) -> int:
    if isinstance(value, dict):
        return len(value) + sum(_count_keys(inner) for inner in value.values() if isinstance(inner, dict | list))
    if isinstance(value, list):
        return sum(_count_keys(inner) for inner in value if isinstance(inner, dict | list))
    return 0


def parse_with_floats(body: bytes, parse_float: Callable[[str], object]) -> Json:
    """Parse a body again that :func:`parse` has accepted, with *parse_float* for its fractions."""
    document: Json = json.loads(body, parse_float=parse_float)
    return document


def strip_mark(body: bytes) -> bytes:
    """Return *body* without a byte order mark, which some editors and shells write before a text."""
    return body.removeprefix(codecs.BOM_UTF8)


class _DuplicateKeyDetector:
    """Builds the objects of one JSON text and notices repeated keys."""

    __slots__ = ("has_duplicate_keys",)

    def __init__(self) -> None:
        self.has_duplicate_keys = False

    def build_object(self, pairs: list[tuple[str, Any]]) -> Json:
        parsed = dict(pairs)
        if len(parsed) != len(pairs):
            self.has_duplicate_keys = True
        return parsed


def _check_limits(body: bytes, max_tokens: int) -> None:
    """Raise MalformedBody if a body has too many tokens or levels. Takes time in proportion to its size."""
    if len(body) > _MAX_ESCAPES and body.count(b"\\") > _MAX_ESCAPES:
        raise MalformedBody(f"The body has more than {_MAX_ESCAPES} escapes.")
    openings = body.count(b"{") + body.count(b"[")
    if openings <= MAX_DEPTH and (len(body) <= max_tokens or _count_at_most(body, openings) <= max_tokens):
        return
    depth = 0
    for number, found in enumerate(_TOKEN.finditer(body), 1):
        first = body[found.start()]
        depth += (first in _OPENING) - (first in _CLOSING)
        if depth > MAX_DEPTH:
            raise MalformedBody(f"The body is nested more than {MAX_DEPTH} levels deep.")
        if number > max_tokens:
            raise MalformedBody(
                f"The body has more than {max_tokens} JSON tokens.", remedy="Kling sends a few hundred per task."
            )


def _count_at_most(body: bytes, openings: int) -> int:
    """Return an upper bound of the tokens in a body, because some may be inside strings."""
    return 2 * openings + sum(body.count(sign) for sign in (b",", b":", b'"'))


def _decode(decoder: json.JSONDecoder, body: bytes) -> object:
    try:
        return decoder.decode(strip_mark(body).decode())
    except (ValueError, RecursionError) as exc:  # ValueError: also an integer with too many digits
        raise MalformedBody(_describe_error(exc)) from None


def _describe_error(exc: ValueError | RecursionError) -> str:
    """Describe what is wrong with a body, without quoting it."""
    match exc:
        case UnicodeDecodeError():
            return f"The body is not UTF-8: byte {exc.start}."
        case json.JSONDecodeError():
            return f"The body is not JSON: {exc.msg}, line {exc.lineno} column {exc.colno}."
        case RecursionError():
            return f"The body is nested more than {MAX_DEPTH} levels deep."
        case _:
            return "The body has a number that is not finite or has too many digits."


def _reject_constant(_constant: str) -> NoReturn:
    raise ValueError


def _parse_finite(digits: str) -> float:
    number = float(digits) if len(digits) <= _MAX_DIGITS else float("inf")
    if number in (float("inf"), float("-inf")):
        raise ValueError
    return number


def _parse_integer(digits: str) -> int:
    return int(digits)  # a Python function, so that other threads run between two large integers
