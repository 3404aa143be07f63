"""Standard streams and arguments that are not UTF-8, or closed: output never fails on a character."""

import io
import os
import sys
from collections.abc import Sequence
from typing import TextIO

from receiver.domain.control_characters import is_surrogate


def prepare() -> None:
    """Open closed standard streams as /dev/null, and escape characters that an output cannot encode."""
    sys.stdin = sys.stdin or _null("r")  # in this order: each takes the lowest free descriptor, which is its own
    sys.stdout = sys.stdout or _null("w")
    sys.stderr = sys.stderr or _null("w")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def encodes_unicode() -> bool:
    """Return whether stdout can encode every character."""
    return (sys.stdout.encoding or "utf-8").lower().startswith("utf")


def not_utf8(arguments: Sequence[str]) -> str | None:
    """Return the first argument that is not UTF-8. Python represents its other bytes by lone surrogates."""
    return next((argument for argument in arguments if any(map(is_surrogate, argument))), None)


def _null(mode: str) -> TextIO:
    return io.TextIOWrapper(io.FileIO(os.open(os.devnull, os.O_RDWR), mode, closefd=False))
