"""What the gateway passes through between a client and Kling: the query, and the allowed headers of both sides."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from urllib.parse import quote

SAFE_IN_PATH = "/%:@!$&'()*+,;=~"
"""The characters of a quoted path that stay as they are."""

_SAFE_IN_QUERY = SAFE_IN_PATH + "?[]"
_ID_HEADERS = frozenset({"request-id", "x-request-id", "x-trace-id", "traceparent", "idempotency-key"})
_FORWARDED_HEADERS = _ID_HEADERS | {"content-type", "accept", "accept-language"}
_RETURNED_HEADERS = _ID_HEADERS | {
    "content-type",
    "content-encoding",
    "content-language",
    "content-disposition",
    "retry-after",
}
_HEADER_PREFIXES = ("ratelimit", "x-ratelimit", "x-kling")


@dataclass(frozen=True, slots=True, kw_only=True)
class PassThrough:
    """The query and the headers of a client's call. Only allowed headers are forwarded."""

    query: str = ""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    def target(self, path: str) -> str:
        """Return the path with the query."""
        return f"{path}?{quote(self.query, safe=_SAFE_IN_QUERY)}" if self.query else path

    def forwarded_headers(self) -> Mapping[str, str]:
        """Return the headers to forward: never a key, a cookie, or a header for the receiver."""
        lower = {name.lower(): value for name, value in self.headers.items()}
        return {name: value for name, value in lower.items() if _is_allowed(name, _FORWARDED_HEADERS)}


NO_PASS_THROUGH = PassThrough()


def returned_headers(headers: Mapping[str, str], extra: Collection[str] = ()) -> Mapping[str, str]:
    """Return the headers of Kling's answer that a client receives."""
    return {name: value for name, value in headers.items() if _is_allowed(name, _RETURNED_HEADERS) or name in extra}


def _is_allowed(name: str, allowed: Collection[str]) -> bool:
    return name in allowed or name.startswith(_HEADER_PREFIXES)
