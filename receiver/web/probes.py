"""Probes of the public URL: callback paths that belong to no task, for `kling-receiver doctor`.

A probe shows that a request through the public URL reaches this process unchanged. It has the path of a callback,
because a proxy may forward nothing else. It is answered once, within a minute, and nothing is stored.
"""

import hashlib
import hmac
import json
from collections.abc import Iterable
from datetime import datetime, timedelta

import msgspec

from receiver.domain.bounded_dict import BoundedDict
from receiver.domain.clock import Clock, Ids, token_hash
from receiver.domain.secret import Secret

LIFETIME = timedelta(seconds=60)
SIGNATURE_HEADERS = ("webhook-id", "webhook-timestamp", "webhook-signature")
"""Headers that a proxy must pass on, because Kling's signature is in them."""

_MAX_OPEN = 16


class Probe(msgspec.Struct, frozen=True, kw_only=True):
    """A registered probe. Only this process and its creator know *secret*, so no other server can answer it."""

    token: Secret
    secret: Secret
    expires_at: datetime


class ProbeRegistry:
    """The open probes, in memory. A new one replaces the oldest of 16."""

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._open: BoundedDict[bytes, tuple[Probe, float]] = BoundedDict(_MAX_OPEN)

    def register(self) -> Probe:
        """Create a probe."""
        probe = Probe(token=Secret(Ids.token()), secret=Secret(Ids.token()), expires_at=self._clock.now() + LIFETIME)
        ends_at = self._clock.monotonic() + LIFETIME.total_seconds()
        self._open[token_hash(probe.token.reveal())] = (probe, ends_at)
        return probe

    def take(self, token: str) -> Probe | None:
        """Return the open probe with this token, and close it; None if there is none."""
        probe, ends_at = self._open.pop(token_hash(token), (None, 0.0))
        return probe if self._clock.monotonic() < ends_at else None


def answer(probe: Probe, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> bytes:
    """Return the JSON that answers a probe: digests of what arrived, which contain neither token nor secret."""
    arrived = {name.decode("latin-1"): value.decode("latin-1") for name, value in headers}
    found = {
        "bytes": len(body),
        "body": digest(probe.secret, body),
        "signature_headers": digest(probe.secret, signature_lines(arrived)),
    }
    return json.dumps({"ok": True, "probe": found}, separators=(",", ":")).encode()


def signature_lines(headers: dict[str, str]) -> bytes:
    """Return the signature headers of a request as bytes, for a digest."""
    return "\n".join(headers.get(name, "") for name in SIGNATURE_HEADERS).encode()


def digest(secret: Secret, content: bytes) -> str:
    """Return the keyed SHA-256 of *content*."""
    return hmac.new(secret.reveal().encode(), content, hashlib.sha256).hexdigest()
