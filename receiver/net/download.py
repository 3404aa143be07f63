"""A file from elsewhere, put down as it comes: bounded in size, time and pace, taken up again where it broke off."""

import asyncio
import re
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from http import HTTPStatus
from typing import Protocol, TypeAlias
from urllib.parse import urljoin, urlsplit

from receiver.domain.errors import NoAnswer
from receiver.net.http_client import Incoming, Outbound

HOPS = 3
"""How many redirects are followed. Each leads to an address of its own, which the guard sees like the first."""

_REDIRECTS = (301, 302, 303, 307, 308)
_RANGE = re.compile(r"bytes (?P<start>\d{1,18})-\d{1,18}/(?P<size>\d{1,18}|\*)")
_WHOLE = re.compile(r"bytes \*/(?P<size>\d{1,18})")
_LENGTH = re.compile(r"\d{1,18}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """The least that must come: so many bytes within so many seconds, again and again until the end."""

    least: int = 256 * 1024
    seconds: float = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Beginning:
    """What is known as a body begins: where in the file it starts, and what the file is.

    ``size`` is the whole file's, where the server tells it. ``validator`` is what tells this file from a later one
    of the same name, None where the server gives nothing that can.
    """

    offset: int
    size: int | None
    content_type: str
    validator: str | None


class Landing(Protocol):
    """Where a file is put down."""

    @property
    def offset(self) -> int:
        """How much of the file is there already."""
        ...

    @property
    def validator(self) -> str | None:
        """What the file that is partly there was told from others by."""
        ...

    async def begin(self, beginning: Beginning) -> None:
        """Make ready for what comes; an offset of 0 means that what is there is worth nothing."""
        ...

    async def write(self, piece: bytes) -> None:
        """Put down what follows."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrived:
    """The file is there, whole."""

    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """The server gave no file but a status."""

    peer: str
    status: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TooLarge:
    """The file is larger than wanted; what came of it is worth nothing."""

    peer: str


Ending: TypeAlias = Arrived | Answered | TooLarge


@dataclass(frozen=True, slots=True, kw_only=True)
class _Elsewhere:
    """The file is at another URL."""

    url: str


_PACE = Pace()


async def download(
    outbound: Outbound, url: str, *, to: Landing, total: timedelta, limit: int, pace: Pace = _PACE
) -> Ending:
    """Get the file at *url*, or the rest of it, within *total* for each hop; it may have *limit* bytes.

    Raises DialRefused, NotSent or NoAnswer, and what *to* raises. Whatever has come by then stays put down.
    """
    for _ in range(HOPS + 1):
        read = partial(_take, url=url, to=to, limit=limit, pace=pace)
        ending = await outbound.stream(url, headers=_range(to), total=total, read=read)
        if not isinstance(ending, _Elsewhere):
            return ending
        url = ending.url
    raise NoAnswer(f"More than {HOPS} redirects, one after the other.")


def _range(to: Landing) -> dict[str, str]:
    """Ask for the rest alone, and only if it is the rest of the same file."""
    if not to.offset or to.validator is None:
        return {}
    return {"range": f"bytes={to.offset}-", "if-range": to.validator}


async def _take(incoming: Incoming, *, url: str, to: Landing, limit: int, pace: Pace) -> Ending | _Elsewhere:
    if incoming.status in _REDIRECTS and "location" in incoming.headers:
        return _Elsewhere(url=_followed(incoming, url))
    if incoming.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and _is_whole(incoming, to):
        return Arrived(size=to.offset)
    if incoming.status not in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
        return Answered(peer=incoming.peer, status=incoming.status)
    beginning = _beginning(incoming, to)
    if beginning.size is not None and beginning.size > limit:
        return TooLarge(peer=incoming.peer)
    await to.begin(beginning)
    count = await _put_down(incoming, to, beginning.offset, limit=limit, pace=pace)
    if count > limit:
        return TooLarge(peer=incoming.peer)
    if beginning.size is not None and count != beginning.size:
        raise NoAnswer(f"{incoming.peer} sent {count} bytes of a file of {beginning.size}.")
    return Arrived(size=count)


def _followed(incoming: Incoming, url: str) -> str:
    try:
        there = urljoin(url, incoming.headers["location"])
        scheme = urlsplit(there).scheme
    except ValueError as exc:
        raise NoAnswer(f"{incoming.peer} redirects to a place that cannot be read.") from exc
    if scheme not in ("http", "https"):
        raise NoAnswer(f"{incoming.peer} redirects to something that is neither http nor https.")
    return there


def _beginning(incoming: Incoming, to: Landing) -> Beginning:
    """Read from the headers what comes. What was not asked for is no file: other coding, another part."""
    headers = incoming.headers
    if headers.get("content-encoding", "identity").strip().lower() not in ("identity", ""):
        raise NoAnswer(f"{incoming.peer} sent the file in a coding that was not asked for.")
    length = headers.get("content-length", "")
    offset, size = 0, int(length) if _LENGTH.fullmatch(length) else None
    if incoming.status == HTTPStatus.PARTIAL_CONTENT:
        part = _RANGE.fullmatch(headers.get("content-range", "").strip())
        if part is None or not to.offset or int(part["start"]) != to.offset:
            raise NoAnswer(f"{incoming.peer} sent another part of the file than was asked for.")
        offset, size = to.offset, None if part["size"] == "*" else int(part["size"])
    return Beginning(
        offset=offset,
        size=size,
        content_type=headers.get("content-type", "").partition(";")[0].strip().lower(),
        validator=_validator(incoming) or (to.validator if offset else None),
    )


def _validator(incoming: Incoming) -> str | None:
    """Give what an If-Range may ask by: a strong tag, else a date."""
    tag = incoming.headers.get("etag", "")
    if tag.startswith('"'):
        return tag
    return incoming.headers.get("last-modified")


def _is_whole(incoming: Incoming, to: Landing) -> bool:
    """Whether there is nothing left to ask for because all is here."""
    told = _WHOLE.fullmatch(incoming.headers.get("content-range", "").strip())
    return told is not None and to.offset > 0 and int(told["size"]) == to.offset


async def _put_down(incoming: Incoming, to: Landing, count: int, *, limit: int, pace: Pace) -> int:
    """Put down what comes, as long as enough comes: a trickle would hold its place for ever. Give the file's size."""
    loop = asyncio.get_running_loop()
    since = 0
    try:
        async with asyncio.timeout(pace.seconds) as patience:
            async for piece in incoming.pieces:
                count += len(piece)
                if count > limit:
                    break
                await to.write(piece)
                since += len(piece)
                if since >= pace.least:
                    patience.reschedule(loop.time() + pace.seconds)
                    since = 0
    except TimeoutError as exc:
        raise NoAnswer(f"{incoming.peer} sent less than {pace.least} bytes in {pace.seconds:g} s.") from exc
    return count
