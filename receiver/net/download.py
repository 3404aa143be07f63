"""Download a file to a target, with limits on size, time and minimum rate; interrupted downloads resume."""

import asyncio
import re
from datetime import timedelta
from functools import partial
from http import HTTPStatus
from typing import Protocol, TypeAlias
from urllib.parse import urljoin, urlsplit

import msgspec

from receiver.domain.errors import NoResponse
from receiver.net.http_client import HttpClient, StreamedResponse

MAX_REDIRECTS = 3
"""The most redirects to follow. The guard checks the address of each one."""

_REDIRECT_STATUSES = (301, 302, 303, 307, 308)
_RANGE = re.compile(r"bytes (?P<start>\d{1,18})-\d{1,18}/(?P<size>\d{1,18}|\*)")
_UNSATISFIED_RANGE = re.compile(r"bytes \*/(?P<size>\d{1,18})")
_LENGTH = re.compile(r"\d{1,18}")


class MinimumRate(msgspec.Struct, frozen=True, kw_only=True):
    """The minimum transfer rate: at least ``min_bytes`` in every ``seconds``, until the end."""

    min_bytes: int = 256 * 1024
    seconds: float = 30.0


class ContentInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What the response headers say about the body.

    ``offset`` is where in the file the body starts. ``size`` is the whole file's, None if unknown. ``validator``
    identifies this version of the file (ETag or date), None if the server sends neither.
    """

    offset: int
    size: int | None
    content_type: str
    validator: str | None


class DownloadTarget(Protocol):
    """Where a downloaded file is written."""

    @property
    def offset(self) -> int:
        """How many bytes of the file exist already."""
        ...

    @property
    def validator(self) -> str | None:
        """The validator of the partial file."""
        ...

    async def start(self, info: ContentInfo) -> None:
        """Prepare for the body. An offset of 0 means that the partial file must be discarded."""
        ...

    async def write(self, chunk: bytes) -> None:
        """Append *chunk*."""
        ...


class Completed(msgspec.Struct, frozen=True, kw_only=True):
    """The file is complete."""

    size: int


class ErrorStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The server answered with an error status."""

    peer: str
    status: int


class TooLarge(msgspec.Struct, frozen=True, kw_only=True):
    """The file exceeds the size limit; the bytes received so far are useless."""

    peer: str


DownloadResult: TypeAlias = Completed | ErrorStatus | TooLarge


class _Redirect(msgspec.Struct, frozen=True, kw_only=True):
    """The server redirects to another URL."""

    url: str


class _Changed:
    """The server sends the rest of another version of the file, although the request excluded that."""


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
    """Download the file at *url*, or the rest of it, up to *max_bytes*. *time_limit* restarts at each redirect.

    Raises AddressBlocked, RequestNotSent or NoResponse, and what *target* raises. The bytes written so far remain.
    """
    resumes = True
    for _ in range(MAX_REDIRECTS + 1):
        headers = _range_headers(target) if resumes else {}
        read = partial(_receive, url=url, target=target, max_bytes=max_bytes, minimum_rate=minimum_rate)
        outcome = await http_client.stream(url, headers=headers, time_limit=time_limit, read=read)
        match outcome:
            case _Redirect():
                url = outcome.url
            case _Changed():
                resumes = False
            case _:
                return outcome
    raise NoResponse(f"The server sent more than {MAX_REDIRECTS} redirects in a row.")


def _range_headers(target: DownloadTarget) -> dict[str, str]:
    """Return the headers that request only the rest, and only if the file has not changed."""
    if not target.offset or target.validator is None:
        return {}
    return {"range": f"bytes={target.offset}-", "if-range": target.validator}


async def _receive(
    response: StreamedResponse, *, url: str, target: DownloadTarget, max_bytes: int, minimum_rate: MinimumRate
) -> DownloadResult | _Redirect | _Changed:
    if response.status in _REDIRECT_STATUSES and "location" in response.headers:
        return _Redirect(url=_redirect_url(response, url))
    if response.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and _is_complete(response, target):
        return Completed(size=target.offset)
    if response.status not in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
        return ErrorStatus(peer=response.peer, status=response.status)
    info = _content_info(response, target)
    is_changed = info.offset > 0 and info.validator != target.validator
    if is_changed or (info.size is not None and info.size > max_bytes):
        return _Changed() if is_changed else TooLarge(peer=response.peer)
    await target.start(info)
    count = await _write_chunks(response, target, info.offset, max_bytes=max_bytes, minimum_rate=minimum_rate)
    if count > max_bytes:
        return TooLarge(peer=response.peer)
    if info.size is not None and count != info.size:
        raise NoResponse(f"{response.peer} sent {count} of {info.size} bytes.")
    return Completed(size=count)


def _redirect_url(response: StreamedResponse, url: str) -> str:
    try:
        target = urljoin(url, response.headers["location"])
        scheme = urlsplit(target).scheme
    except ValueError as exc:
        raise NoResponse(f"{response.peer} redirects to an invalid URL.") from exc
    if scheme not in ("http", "https"):
        raise NoResponse(f"{response.peer} redirects to a URL that is neither http nor https.")
    return target


def _content_info(response: StreamedResponse, target: DownloadTarget) -> ContentInfo:
    """Read the headers. An encoded body, or another part than the requested one, is an error."""
    headers = response.headers
    if headers.get("content-encoding", "identity").strip().lower() not in ("identity", ""):
        raise NoResponse(f"{response.peer} sent the file in an encoding that was not requested.")
    length = headers.get("content-length", "")
    offset, size = 0, int(length) if _LENGTH.fullmatch(length) else None
    if response.status == HTTPStatus.PARTIAL_CONTENT:
        part = _RANGE.fullmatch(headers.get("content-range", "").strip())
        if part is None or not target.offset or int(part["start"]) != target.offset:
            raise NoResponse(f"{response.peer} sent a part of the file that was not requested.")
        offset, size = target.offset, None if part["size"] == "*" else int(part["size"])
    return ContentInfo(
        offset=offset,
        size=size,
        content_type=headers.get("content-type", "").partition(";")[0].strip().lower(),
        validator=_validator(response) or (target.validator if offset else None),
    )


def _validator(response: StreamedResponse) -> str | None:
    """Return the value for If-Range: a strong ETag, or else the date."""
    tag = response.headers.get("etag", "")
    if tag.startswith('"'):
        return tag
    return response.headers.get("last-modified")


def _is_complete(response: StreamedResponse, target: DownloadTarget) -> bool:
    """Whether the partial file is already complete."""
    match = _UNSATISFIED_RANGE.fullmatch(response.headers.get("content-range", "").strip())
    return match is not None and target.offset > 0 and int(match["size"]) == target.offset


async def _write_chunks(
    response: StreamedResponse, target: DownloadTarget, count: int, *, max_bytes: int, minimum_rate: MinimumRate
) -> int:
    """Write the body and return the file's size. A response below the minimum rate would hold its slot for ever."""
    loop = asyncio.get_running_loop()
    since = 0
    try:
        async with asyncio.timeout(minimum_rate.seconds) as deadline:
            async for chunk in response.chunks:
                count += len(chunk)
                if count > max_bytes:
                    break
                await target.write(chunk)
                since += len(chunk)
                if since >= minimum_rate.min_bytes:
                    deadline.reschedule(loop.time() + minimum_rate.seconds)
                    since = 0
    except TimeoutError as exc:
        raise NoResponse(
            f"{response.peer} sent less than {minimum_rate.min_bytes} bytes within {minimum_rate.seconds:g} s."
        ) from exc
    return count
