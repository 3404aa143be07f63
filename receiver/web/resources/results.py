"""Archived results: ``/results/{task}/{file}``, with Range requests.

The files come from servers that we do not trust. A browser must neither run nor guess anything in them: a short list
of types is shown, every other file is a download, and the policy puts each file into a sandbox of its own.
"""

import re
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from receiver.archive.content_type import EXTENSIONS, UNKNOWN_TYPE
from receiver.archive.previews import Previews
from receiver.archive.reader import file_name
from receiver.domain.errors import NotFound
from receiver.domain.model import Asset
from receiver.store.interfaces import Catalog, ResultStore, StoredResult
from receiver.web.api_requests import NoQuery
from receiver.web.byte_range import RangeNotSatisfiable, requested_range
from receiver.web.params import read_query
from receiver.web.server.problems import RETRY_AFTER, Problem

MAX_OPEN = 100
"""The most files that are being sent at once: each needs a descriptor and some memory."""

MAX_MEDIA_PART = 4 * 1024 * 1024
"""The most bytes of one answer to a player of a page, which asks for the rest of a video as it needs it.

A browser opens six connections. If each player held one, the page's pictures and its updates would wait.
"""

SHOWN_TYPES = frozenset(EXTENSIONS) - {UNKNOWN_TYPE}
"""The types of files that a browser shows. It can only download the others."""

_NAME = re.compile(r"(?P<number>[0-9]{1,4})\.[a-z0-9]{2,4}")
_PREVIEW = re.compile(r"(?P<number>[0-9]{1,4})\.preview\.webp")
_PLACEHOLDER = Path(__file__).with_name("no_thumbnail.png").read_bytes()
_SAFE_HEADERS: Mapping[str, str] = {
    "accept-ranges": "bytes",
    "cache-control": "private, no-cache",
    "content-security-policy": "sandbox; default-src 'none'",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


class ResultApi:
    """Answers ``/results/{task}/{file}``: the file itself, or its thumbnail."""

    def __init__(self, store: ResultStore, catalog: Catalog, previews: Previews) -> None:
        self.store = store
        self._catalog = catalog
        self.previews = previews
        self.reader = previews.reader
        self.open_files = 0

    async def show(self, request: Request) -> Response:
        """Send an archived file, or a range of it."""
        read_query(request, NoQuery)
        ref, name = request.path_params["task"], request.path_params["file"]
        if preview := _PREVIEW.fullmatch(name):
            return await self._show_preview(request, await self._find(ref, int(preview["number"])))
        named = _NAME.fullmatch(name)
        result = await self._find(ref, int(named["number"])) if named else None
        if result is None or file_name(result.asset) != name:
            raise _not_found(ref, name)
        headers = _headers(result)
        if headers["etag"] in _tags(request.headers.get("if-none-match", "")):
            return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
        part = None
        if request.method == "GET" and request.headers.get("if-range", headers["etag"]) == headers["etag"]:
            part = _requested_part(request, result.asset)
            if part is not None and request.headers.get("sec-fetch-dest") in ("video", "audio"):
                part = part[:MAX_MEDIA_PART]
        if self.open_files >= MAX_OPEN:
            detail = f"{MAX_OPEN} files are being sent already. Try again later."
            raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, "too_many_downloads", detail, headers=RETRY_AFTER)
        return _FileResponse(self, result, part, headers, is_head=request.method == "HEAD")

    async def _find(self, ref: str, number: int) -> StoredResult | None:
        task = await self._catalog.task(ref)
        return await self.store.find(task.id, number) if task is not None else None

    async def _show_preview(self, request: Request, result: StoredResult | None) -> Response:
        """Send the thumbnail of a picture, or a crossed-out one if there can be none."""
        if not self.previews.is_installed:
            raise NotFound(
                "There are no thumbnails.", remedy="Install the extra: pip install 'kling-receiver[previews]'."
            )
        if result is None:
            raise _not_found(request.path_params["task"], request.path_params["file"])
        thumbnail = await self.previews.get(result)
        if thumbnail is None:
            headers = {**_SAFE_HEADERS, "cache-control": "no-store", "content-type": "image/png"}
            return Response(_PLACEHOLDER, headers=headers)
        headers = {**_SAFE_HEADERS, "content-type": "image/webp", "etag": f'"{result.asset.sha256.hex()}-preview"'}
        if headers["etag"] in _tags(request.headers.get("if-none-match", "")):
            return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
        return Response(thumbnail, headers=headers)


def preview_name(number: int) -> str:
    """Return the file name of a thumbnail."""
    return f"{number}.preview.webp"


def _not_found(ref: str, name: str) -> NotFound:
    return NotFound(
        f"There is no archived file {name[:64]!r} of the task {ref[:64]!r}.",
        remedy="`GET /api/tasks/{id}` lists a task's files. It may not be archived yet, or be past retention.",
    )


def _headers(result: StoredResult) -> dict[str, str]:
    asset = result.asset
    is_shown = asset.content_type in SHOWN_TYPES
    how = "inline" if is_shown else "attachment"
    return {
        **_SAFE_HEADERS,
        "content-disposition": f'{how}; filename="{result.task_id}-{file_name(asset)}"',
        "content-type": asset.content_type if is_shown else UNKNOWN_TYPE,
        "etag": f'"{asset.sha256.hex()}"',
    }


def _tags(header: str) -> list[str]:
    """Return the entity tags of an If-None-Match header, compared weakly."""
    return [tag.strip().removeprefix("W/") for tag in header.split(",")]


def _requested_part(request: Request, asset: Asset) -> range | None:
    try:
        return requested_range(request.headers.get("range"), size=asset.size)
    except RangeNotSatisfiable as exc:
        detail = f"The file has {asset.size} bytes; the requested range begins after its end."
        raise Problem(
            HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
            "range_not_satisfiable",
            detail,
            headers={"content-range": f"bytes */{asset.size}"},
        ) from exc


class _FileResponse(StreamingResponse):
    """One file on its way to one client; Starlette cancels it when the client disconnects.

    A slow client costs one chunk of memory and an open file, but no thread.
    """

    def __init__(
        self, api: ResultApi, result: StoredResult, part: range | None, headers: Mapping[str, str], *, is_head: bool
    ) -> None:
        size = result.asset.size
        self._api = api
        self._result = result
        self._part = range(size) if part is None else part
        self._is_head = is_head
        status = HTTPStatus.OK if part is None else HTTPStatus.PARTIAL_CONTENT
        place = {} if part is None else {"content-range": f"bytes {part.start}-{part.stop - 1}/{size}"}
        super().__init__((), status, headers={**headers, **place, "content-length": str(len(self._part))})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the file."""
        self._api.open_files += 1
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._api.open_files -= 1

    async def stream_response(self, send: Send) -> None:
        """Send the head, once the first bytes are read, and the rest chunk by chunk."""
        async with self._api.reader.open(self._result) as file:
            position, stop = self._part.start, self._part.stop
            content = await file.read(position, min(stop, position + (1 if self._is_head else file.chunk_size)))
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            while not self._is_head and (position := position + len(content)) < stop:
                await send({"type": "http.response.body", "body": content, "more_body": True})
                content = await file.read(position, min(stop, position + file.chunk_size))
            await send({"type": "http.response.body", "body": b"" if self._is_head else content})
