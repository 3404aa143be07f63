"""The console's static files: read once, served under a path with their hash, so that browsers may keep them."""

import hashlib
from collections.abc import Mapping
from functools import cache
from http import HTTPStatus
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from receiver.web.server import problems

PREFIX = "/console/static"

_MEDIA_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml", ".txt": "text/plain"}
_HEADERS = {
    "cache-control": "public, max-age=31536000, immutable",
    "x-content-type-options": "nosniff",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
}


@cache
def _files() -> Mapping[str, tuple[bytes, str]]:
    """Return each file's content and the first digits of its hash, by path."""
    found: dict[str, tuple[bytes, str]] = {}
    _collect(Path(__file__).with_name("static"), "", found)
    return found


def _collect(folder: Path, above: str, found: dict[str, tuple[bytes, str]]) -> None:
    for each in folder.iterdir():
        if each.is_dir():
            _collect(each, f"{above}{each.name}/", found)
        elif _suffix(each.name) in _MEDIA_TYPES:
            content = each.read_bytes()
            found[f"{above}{each.name}"] = content, hashlib.sha256(content).hexdigest()[:16]


def static_url(name: str) -> str:
    """Return the address of a static file. It changes with the file's content."""
    return f"{PREFIX}/{_files()[name][1]}/{name}"


async def static_file(request: Request) -> Response:
    """Return a static file. While nodes are upgraded, another one's page may ask for another version of it."""
    name = request.path_params["name"]
    content, digest = _files().get(name, (b"", ""))
    if not digest:
        raise problems.not_found()
    headers = _HEADERS if digest == request.path_params["digest"] else _HEADERS | {"cache-control": "no-store"}
    return Response(content, HTTPStatus.OK, headers=headers, media_type=_MEDIA_TYPES[_suffix(name)])


def _suffix(name: str) -> str:
    return name[name.rfind(".") :]
