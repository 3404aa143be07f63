"""A file from elsewhere, put down as it comes: bounded in size, time and pace, taken up again where it broke off."""

import asyncio
import re
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from http import HTTPStatus
from typing import Protocol, TypeAlias
from urllib.parse import urljoin, urlsplit

from receiver.domain.errors import NoResponse
from receiver.net.http_client import HttpClient, StreamedResponse

MAX_REDIRECTS = 3
"""How many redirects are followed. Each leads to an address of its own, which the guard sees like the first."""

_REDIRECT_STATUSES = (301, 302, 303, 307, 308)
_RANGE = re.compile(r"bytes (?P<start>\d{1,18})-\d{1,18}/(?P<size>\d{1,18}|\*)")
_UNSATISFIED_RANGE = re.compile(r"bytes \*/(?P<size>\d{1,18})")
_LENGTH = re.compile(r"\d{1,18}")


@dataclass(frozen=True, slots=True, kw_only=True)
class MinimumRate:
    """The least that must come: so many bytes within so many seconds, again and again until the end."""

    min_bytes: int = 256 * 1024
    seconds: float = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentInfo:
    """What is known as a body begins: where in the file it starts, and what the file is.

    ``size`` is the whole file's, where the server tells it. ``validator`` is what tells this file from a later one
    of the same name, None where the server gives nothing that can.
    """

    offset: int
    size: int | None
    content_type: str
    validator: str | None


class DownloadTarget(Protocol):
    """Where a file is put down."""

    @property
    def offset(self) -> int:
        """How much of the file is there already."""
        ...

    @property
    def validator(self) -> str | None:
        """What the file that is partly there was told from others by."""
        ...

    async def start(self, info: ContentInfo) -> None:
        """Make ready for what comes; an offset of 0 means that what is there is worth nothing."""
        ...

    async def write(self, chunk: bytes) -> None:
        """Put down what follows."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """The file is there, whole."""

    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorStatus:
    """The server gave no file but a status."""

    peer: str
    status: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TooLarge:
    """The file is larger than wanted; what came of it is worth nothing."""

    peer: str


DownloadResult: TypeAlias = Completed | ErrorStatus | TooLarge


@dataclass(frozen=True, slots=True, kw_only=True)
class _Redirect:
    """The file is at another URL."""

    url: str


_DEFAULT_RATE = MinimumRate()


async def download(
    http_client: HttpClient,
    url: str,
    *,
    target: DownloadTarget,
    time_limit: timedelta,
    max_bytes: int,
    minimum_rate: MinimumRate = _DEFAULT_RATE,
) -> DownloadResult:
    """Get the file at *url*, or the rest of it, within *total* for each hop; it may have *limit* bytes.

    Raises DialRefused, NotSent or NoAnswer, and what *to* raises. Whatever has come by then stays put down.
    """
    for _ in range(MAX_REDIRECTS + 1):
        read = partial(_receive, url=url, target=target, max_bytes=max_bytes, minimum_rate=minimum_rate)
        ending = await http_client.stream(url, headers=_range_headers(target), time_limit=time_limit, read=read)
        if not isinstance(ending, _Redirect):
            return ending
        url = ending.url
    raise NoResponse(f"More than {MAX_REDIRECTS} redirects, one after the other.")


def _range_headers(target: DownloadTarget) -> dict[str, str]:
    """Ask for the rest alone, and only if it is the rest of the same file."""
    if not target.offset or target.validator is None:
        return {}
    return {"range": f"bytes={target.offset}-", "if-range": target.validator}


async def _receive(
    response: StreamedResponse, *, url: str, target: DownloadTarget, max_bytes: int, minimum_rate: MinimumRate
) -> DownloadResult | _Redirect:
    if response.status in _REDIRECT_STATUSES and "location" in response.headers:
        return _Redirect(url=_redirect_url(response, url))
    if response.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and _is_complete(response, target):
        return Completed(size=target.offset)
    if response.status not in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
        return ErrorStatus(peer=response.peer, status=response.status)
    beginning = _content_info(response, target)
    if beginning.size is not None and beginning.size > max_bytes:
        return TooLarge(peer=response.peer)
    await target.start(beginning)
    count = await _write_chunks(response, target, beginning.offset, max_bytes=max_bytes, minimum_rate=minimum_rate)
    if count > max_bytes:
        return TooLarge(peer=response.peer)
    if beginning.size is not None and count != beginning.size:
        raise NoResponse(f"{response.peer} sent {count} bytes of a file of {beginning.size}.")
    return Completed(size=count)


def _redirect_url(response: StreamedResponse, url: str) -> str:
    try:
        there = urljoin(url, response.headers["location"])
        scheme = urlsplit(there).scheme
    except ValueError as exc:
        raise NoResponse(f"{response.peer} redirects to a place that cannot be read.") from exc
    if scheme not in ("http", "https"):
        raise NoResponse(f"{response.peer} redirects to something that is neither http nor https.")
    return there


def _content_info(response: StreamedResponse, target: DownloadTarget) -> ContentInfo:
    """Read from the headers what comes. What was not asked for is no file: other coding, another part."""
    headers = response.headers
    if headers.get("content-encoding", "identity").strip().lower() not in ("identity", ""):
        raise NoResponse(f"{response.peer} sent the file in a coding that was not asked for.")
    length = headers.get("content-length", "")
    offset, size = 0, int(length) if _LENGTH.fullmatch(length) else None
    if response.status == HTTPStatus.PARTIAL_CONTENT:
        part = _RANGE.fullmatch(headers.get("content-range", "").strip())
        if part is None or not target.offset or int(part["start"]) != target.offset:
            raise NoResponse(f"{response.peer} sent another part of the file than was asked for.")
        offset, size = target.offset, None if part["size"] == "*" else int(part["size"])
    return ContentInfo(
        offset=offset,
        size=size,
        content_type=headers.get("content-type", "").partition(";")[0].strip().lower(),
        validator=_validator(response) or (target.validator if offset else None),
    )


def _validator(response: StreamedResponse) -> str | None:
    """Give what an If-Range may ask by: a strong tag, else a date."""
    tag = response.headers.get("etag", "")
    if tag.startswith('"'):
        return tag
    return response.headers.get("last-modified")


def _is_complete(response: StreamedResponse, target: DownloadTarget) -> bool:
    """Whether there is nothing left to ask for because all is here."""
    told = _UNSATISFIED_RANGE.fullmatch(response.headers.get("content-range", "").strip())
    return told is not None and target.offset > 0 and int(told["size"]) == target.offset


async def _write_chunks(
    response: StreamedResponse, target: DownloadTarget, count: int, *, max_bytes: int, minimum_rate: MinimumRate
) -> int:
    """Put down what comes, as long as enough comes: a trickle would hold its place for ever. Give the file's size."""
    loop = asyncio.get_running_loop()
    since = 0
    try:
        async with asyncio.timeout(minimum_rate.seconds) as patience:
            async for piece in response.chunks:
                count += len(piece)
                if count > max_bytes:
                    break
                await target.write(piece)
                since += len(piece)
                if since >= minimum_rate.min_bytes:
                    patience.reschedule(loop.time() + minimum_rate.seconds)
                    since = 0
    except TimeoutError as exc:
        raise NoResponse(
            f"{response.peer} sent less than {minimum_rate.min_bytes} bytes in {minimum_rate.seconds:g} s."
        ) from exc
    return count
