"""Turn a URL and headers into the head of an HTTP/1.1 request."""

import base64
import re
from collections.abc import Mapping
from functools import lru_cache
from urllib.parse import quote

import msgspec

from receiver.domain.errors import RequestNotSent

_MANAGED_HEADERS = frozenset(
    {
        "host",
        "content-length",
        "transfer-encoding",
        "connection",
        "keep-alive",
        "te",
        "trailer",
        "upgrade",
        "expect",
        "accept-encoding",
    }
)
_DEFAULT_PORTS = {"http": 80, "https": 443}
_LAST_PORT = 65535
_HOST = re.compile(r"[0-9A-Za-z_.:-]+")  # an IDNA-encoded name, or an address
_NOT_SENT = re.compile(r"[^\x21-\x7e]+")  # a request line has only ASCII
_HEAD = re.compile(
    rb"[A-Za-z]+ [\x21-\x7e]+ HTTP/1\.1\r\n"
    rb"(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+: [^\x00-\x08\x0a-\x1f\x7f]*\r\n)+\r\n"
)


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """A parsed URL, in the parts that a request needs."""

    host: str
    port: int
    is_secure: bool
    path: str
    host_header: str
    authorization: Mapping[str, str]
    origin: str

    @property
    def name(self) -> str:
        """Host and port, the only part of the URL that may be shown."""
        return f"{self.host}:{self.port}"


@lru_cache(maxsize=1024)
def parse_target(url: str) -> Target:
    """Parse *url*. Raises RequestNotSent."""
    import httpx2 as httpx  # noqa: PLC0415 -- only its URLs are needed: an idle service does without its 3 MiB

    try:
        parsed = httpx.URL(url)
        host = parsed.raw_host.decode("ascii")
    except (httpx.InvalidURL, ValueError, TypeError) as exc:
        raise RequestNotSent("The URL is not valid. Write it like https://host/path.") from exc
    default_port = _DEFAULT_PORTS.get(parsed.scheme)
    if default_port is None or not _HOST.fullmatch(host):
        raise RequestNotSent("The URL is not an http or https URL with a host. Write it like https://host/path.")
    port = default_port if parsed.port is None else parsed.port
    if not 0 < port <= _LAST_PORT:
        raise RequestNotSent(f"The URL has an invalid port: {port}. Expected 1 to 65535.")
    authorization = {}
    if parsed.userinfo:
        credentials = base64.b64encode(f"{parsed.username}:{parsed.password}".encode()).decode("ascii")
        authorization["authorization"] = f"Basic {credentials}"
    return Target(
        host=host,
        port=port,
        is_secure=parsed.scheme == "https",
        path=_request_target(url, parsed.raw_path.decode("ascii")),
        host_header=parsed.netloc.decode("ascii"),
        authorization=authorization,
        origin=f"{parsed.scheme}://{host}:{port}",
    )


def _request_target(url: str, parsed: str) -> str:
    """Return the path and the query of *url*. The query is exactly as written: it may carry a signature over its bytes.

    *parsed* is the path and the query as httpx would send them: it encodes some characters that may stay.
    """
    path = parsed.partition("?")[0]
    _, mark, query = url.partition("#")[0].partition("?")
    return path + mark + _NOT_SENT.sub(lambda found: quote(found[0]), query) if mark else path


def encode_head(
    method: str, target: Target, headers: Mapping[str, str], *, user_agent: str, body_size: int | None
) -> bytes:
    """Return the head of a request, with a chunked body if *body_size* is None. Raises RequestNotSent.

    The headers that frame the message are always ours; the caller cannot set them.
    """
    given = {name.lower(): value for name, value in headers.items()}
    merged = {"accept": "*/*", "user-agent": user_agent, **target.authorization, **given}
    lines = [f"{method} {target.path} HTTP/1.1", f"host: {target.host_header}", "accept-encoding: identity"]
    lines += [f"{name}: {value}" for name, value in merged.items() if name not in _MANAGED_HEADERS]
    if body_size is None:
        lines.append("transfer-encoding: chunked")
    elif body_size or method in ("POST", "PUT", "PATCH"):
        lines.append(f"content-length: {body_size}")
    count = len(lines) + 1
    lines += ("", "")
    head = "\r\n".join(lines).encode("utf-8", "replace")
    if head.count(b"\n") != count or not _HEAD.fullmatch(head):  # a value with a line break would add a header
        raise RequestNotSent(f"The request to {target.name} has a method, path or header that is not valid HTTP.")
    return head
