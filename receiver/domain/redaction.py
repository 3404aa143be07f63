"""Removes secrets from text and bodies that the receiver logs, stores or shows. Pure.

Our own code puts no secret into a text. But a server may quote the key that it refuses, a destination may echo its
headers, and a library may log a URL. So everything that comes from outside passes a Redactor before it is kept.
"""

import json
import re
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from html import escape
from urllib.parse import quote

from receiver.domain.clock import TOKEN_LENGTH
from receiver.domain.secret import Secret

MASK = "***"
MIN_LENGTH = 8
"""Shorter secrets are not searched for: ordinary words would match them."""

_MIN_PART = 4  # of a secret that was cut: fewer characters say little
_MAX_ADDED = 16
_ESCAPES = (
    ("&<>", "\\u{:04x}"),  # JSON by Go
    ("&<>='", "\\u{:04x}"),  # JSON by Gson
    ("&<>'+`\"", "\\u{:04X}"),  # JSON by .NET
    ("&<>'=/`\"", "&#x{:X};"),  # HTML by many template engines
)
"""Characters that common encoders escape without need, and how: keys in base64 contain some of them."""

_SCHEME = re.compile(r"^(?:basic|bearer|token|key)\s+", re.IGNORECASE)


def _mask_token(found: re.Match[str]) -> str:
    return f"eyJ{MASK}" if "." in found[0] else found[0]


def _mask_query(found: re.Match[str]) -> str:
    address, _, query = found[0].partition("?")
    return f"{address}?{MASK}" if query else found[0]


# Each pattern has a word that every match contains: testing for the word first makes redaction ten times cheaper.
# Each takes linear time: no match is tried twice over the same text. So the last part of a token and of a URL is
# optional, although only a match with it is masked.
_PATTERNS: Sequence[tuple[str, re.Pattern[str], str | Callable[[re.Match[str]], str]]] = [
    ("/callbacks/", re.compile(r"(/callbacks/)[^\s\"'<>?#/\\\x1b]+"), r"\1***"),  # a callback's token
    ("/console/login/", re.compile(r"(/console/login/)[^\s\"'<>?#/\\\x1b]+"), r"\1***"),  # a one-time link
    ("bearer", re.compile(r"\b(bearer\s+)[\w.~+/=-]{8,}", re.IGNORECASE), r"\1***"),  # an API key, the admin token
    ("whsec_", re.compile(r"\bwhsec_[\w+/=-]+"), "whsec_***"),  # a signing secret
    ("eyj", re.compile(r"\beyJ[\w-]+(?:\.[\w-]+(?:\.[\w-]*)?)?"), _mask_token),  # a token signed for Kling
    ("@", re.compile(r"(://)[^\s\"'<>/@?#\\\x1b]+@"), r"\1***@"),  # a password in a URL
    ("://", re.compile(r"://[^\s\"'<>?#\\\x1b]+(?:\?[^\s\"'<>\\\x1b]+)?"), _mask_query),  # a URL signed by its query
]

# A token in a callback URL of ours; the slash may be escaped as in JSON or in a URL.
_OWN_TOKEN = re.compile(rf"(callbacks(?:\\*/|%2[Ff]))[\w-]{{{TOKEN_LENGTH}}}(?![\w-])", re.ASCII)
_OWN_TOKEN_BYTES = re.compile(_OWN_TOKEN.pattern.encode())


class Redactor:
    """Replaces secrets by ``***``: known values everywhere, and in text also strings that look like a secret."""

    def __init__(self, secrets: Iterable[Secret] = ()) -> None:
        """*secrets* are the configured ones. A header's value such as ``Bearer KEY`` hides ``KEY`` alone too."""
        self._configured = _all_forms(secrets)
        self._added: deque[Sequence[str]] = deque(maxlen=_MAX_ADDED)
        self._list_forms()

    def replace(self, secrets: Iterable[Secret]) -> None:
        """Hide *secrets* instead of the configured ones. Those are still hidden too: calls with them are in flight."""
        former, self._configured = self._configured, _all_forms(secrets)
        self._added.append([form for form in former if form not in self._configured])
        self._list_forms()

    def add(self, secret: Secret) -> None:
        """Hide a secret made while running too, such as a signed token. Only the newest 16 are remembered."""
        self._added.append(_forms(secret))
        self._list_forms()

    def text(self, text: str) -> str:
        """Return a text for people: a log line, a message, a reason, an excerpt of an answer."""
        text = self.values(text)
        lowered = text.lower()
        for word, pattern, replacement in _PATTERNS:
            if word in lowered:
                text = pattern.sub(replacement, text)
        return text

    def values(self, text: str) -> str:
        """Return *text* without known secrets and callback tokens. Everything else stays: signed URLs still work."""
        for form in self._forms:
            if form in text:
                text = text.replace(form, MASK)
        return _OWN_TOKEN.sub(r"\1***", text) if "callbacks" in text else text

    def headers(self, headers: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
        """Return headers with their values as ``values`` returns them. Nearly all have no secret, so search once."""
        whole = tuple(headers)
        joined = "\n".join([value for _, value in whole])
        return whole if self.values(joined) == joined else tuple((name, self.values(value)) for name, value in whole)

    def body(self, body: bytes) -> bytes:
        """Return a body without known secrets and callback tokens, otherwise byte for byte."""
        if len(body) < MIN_LENGTH:  # most destinations answer with a word or nothing
            return body
        for form in self._encoded_forms:
            if form in body:
                body = body.replace(form, MASK.encode())
        return _OWN_TOKEN_BYTES.sub(rb"\1***", body) if b"callbacks" in body else body

    def trim(self, body: bytes) -> bytes:
        """Return a part of a longer body without the rest of a known secret at its end and at its start."""
        if len(body) < _MIN_PART:
            return body
        for encoded in self._encoded_forms:
            tail, head = body[-len(encoded) :], body[: len(encoded)]
            if (at := _beginning_of(encoded, tail)) is not None:
                body = body[: len(body) - len(tail) + at]
            if (at := _beginning_of(encoded[::-1], head[::-1])) is not None:
                body = body[len(head) - at :]
        return body

    def _list_forms(self) -> None:
        self._forms = (*self._configured, *(form for forms in self._added for form in forms))
        self._encoded_forms = tuple(form.encode() for form in self._forms)


def _beginning_of(secret: bytes, tail: bytes) -> int | None:
    """Return where *tail* ends with the beginning of *secret*, or None if it does not."""
    at = tail.find(secret[:_MIN_PART])
    while at >= 0:
        if secret.startswith(tail[at:]):
            return at
        at = tail.find(secret[:_MIN_PART], at + 1)
    return None


def _all_forms(secrets: Iterable[Secret]) -> Sequence[str]:
    """Return all forms of all secrets, the longest first: one secret may be a part of another."""
    return sorted({form for secret in secrets for form in _forms(secret)}, key=len, reverse=True)


def _forms(secret: Secret) -> Sequence[str]:
    """Return how a secret may be written: as it is, in JSON, in a URL, and in HTML; the longest first."""
    forms: set[str] = set()
    for word in {secret.reveal(), _SCHEME.sub("", secret.reveal())}:
        if len(word) >= MIN_LENGTH:
            in_json = json.dumps(word)[1:-1]
            forms |= {word, in_json, in_json.replace("/", "\\/")}
            for quoted in (quote(word, safe=""), quote(word)):
                forms |= {quoted, re.sub("%[0-9A-F]{2}", lambda found: found[0].lower(), quoted)}
            forms |= {escape(word), escape(word, quote=False)}
            forms |= {_escape(word, characters, template) for characters, template in _ESCAPES}
    return sorted(forms, key=len, reverse=True)


def _escape(word: str, characters: str, template: str) -> str:
    return "".join(template.format(ord(letter)) if letter in characters else letter for letter in word)
