"""The Range header of a request for a file (RFC 9110). Pure."""

import re

_RANGE = re.compile(r"bytes=(?P<first>\d{0,19})-(?P<last>\d{0,19})")


class RangeNotSatisfiable(Exception):
    """The requested range begins after the end of the file."""


def requested_range(header: str | None, *, size: int) -> range | None:
    """Return the bytes that a Range header asks for; None for the whole file.

    A header with several ranges, another unit or an error counts as absent, as the RFC permits: the client then gets
    the whole file. Raises RangeNotSatisfiable.
    """
    found = _RANGE.fullmatch(header.strip()) if header else None
    if found is None:
        return None
    first, last = found["first"], found["last"]
    if not first:
        return _suffix(int(last), size) if last else None
    if last and int(last) < int(first):
        return None
    if int(first) >= size:
        raise RangeNotSatisfiable
    return range(int(first), min(int(last) + 1, size) if last else size)


def _suffix(length: int, size: int) -> range:
    if not length or not size:
        raise RangeNotSatisfiable
    return range(max(size - length, 0), size)
