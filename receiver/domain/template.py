"""Text with expressions in braces: ``Task {task.label} is done``. Pure: it finds the expressions, others evaluate them.

``{{`` and ``}}`` are plain braces. An expression may contain braces and quoted text itself.
"""

from collections.abc import Iterator, Sequence

import msgspec

_QUOTES = "'\"`"


class Expression(msgspec.Struct, frozen=True):
    """The part of a template between braces."""

    text: str


Part = str | Expression


def parse_template(text: str) -> Sequence[Part]:
    """Return the plain texts and the expressions of a template, in their order. Raises ValueError."""
    return tuple(part for part in _parts(text) if part != "")


def _parts(text: str) -> Iterator[Part]:
    plain, at = "", 0
    while at < len(text):
        if text[at : at + 2] in ("{{", "}}"):
            plain, at = plain + text[at], at + 2
        elif text[at] == "}":
            raise ValueError(f'has a "}}" without "{{" at character {at + 1}; write "}}}}" for a plain brace')
        elif text[at] == "{":
            end = _end_of_expression(text, at + 1)
            yield plain
            yield Expression(text[at + 1 : end].strip())
            plain, at = "", end + 1
        else:
            plain, at = plain + text[at], at + 1
    yield plain


def _end_of_expression(text: str, start: int) -> int:
    """Return where the brace is that ends the expression that starts at *start*."""
    depth, quote, at = 1, "", start
    while at < len(text):
        letter = text[at]
        if quote:
            at += letter == "\\"  # the next one is escaped
            quote = "" if letter == quote else quote
        elif letter in _QUOTES:
            quote = letter
        else:
            depth += (letter == "{") - (letter == "}")
            if depth == 0:
                return at
        at += 1
    raise ValueError(f'has a "{{" without "}}" at character {start}; write "{{{{" for a plain brace')
