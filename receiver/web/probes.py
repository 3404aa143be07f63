"""Probes of the public URL: callback paths that belong to no task, for `kling-receiver doctor`.

A probe shows that a request through the public URL reaches this service unchanged. It has the path of a callback,
because a proxy may forward nothing else. It is answered once, within a minute, and nothing is stored.
"""

import hashlib
import hmac
import json
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable
from datetime import datetime, timedelta

import msgspec

from receiver.domain.bounded_dict import BoundedDict
from receiver.domain.clock import Clock, from_micros, micros
from receiver.domain.secret import Secret

LIFETIME = timedelta(seconds=60)
SIGNATURE_HEADERS = ("webhook-id", "webhook-timestamp", "webhook-signature")
"""Headers that a proxy must pass on, because Kling's signature is in them."""

_NONCE_BYTES, _TIME_BYTES, _MAC_BYTES = 12, 8, 12  # as long as the token of a callback
_MAX_TAKEN = 1024


class Probe(msgspec.Struct, frozen=True, kw_only=True):
    """A registered probe. Only the service and the probe's creator know *secret*, so no other server can answer it."""

    token: Secret
    secret: Secret
    expires_at: datetime


class ProbeRegistry:
    """Makes probes and recognizes them by their token, which contains its end and a keyed hash."""

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._key = secrets.token_bytes(32)
        self._taken: BoundedDict[bytes, None] = BoundedDict(_MAX_TAKEN)

    def share(self, admin_token: Secret) -> None:
        """Recognize the probes of all nodes with the same admin token: a balancer may pass a probe to any of them.

        The key is expensive to compute, so that a probe in a proxy's log does not help to guess a weak token.
        """
        self._key = hashlib.scrypt(admin_token.reveal().encode(), salt=b"probes of the public URL", n=2**14, r=8, p=1)

    def register(self) -> Probe:
        """Create a probe."""
        expires_at = self._clock.now() + LIFETIME
        claims = secrets.token_bytes(_NONCE_BYTES) + micros(expires_at).to_bytes(_TIME_BYTES)
        return self._probe(claims, expires_at)

    def take(self, token: str) -> Probe | None:
        """Return the open probe with this token, and close it on this node; None if there is none."""
        try:
            content = urlsafe_b64decode(f"{token}=")
        except ValueError:
            return None
        claims, mac = content[: _NONCE_BYTES + _TIME_BYTES], content[_NONCE_BYTES + _TIME_BYTES :]
        if not hmac.compare_digest(mac, self._mac(b"token", claims)[:_MAC_BYTES]) or claims in self._taken:
            return None
        expires_at = from_micros(int.from_bytes(claims[_NONCE_BYTES:]))
        if self._clock.now() >= expires_at:
            return None
        self._taken[claims] = None
        return self._probe(claims, expires_at)

    def _probe(self, claims: bytes, expires_at: datetime) -> Probe:
        token = urlsafe_b64encode(claims + self._mac(b"token", claims)[:_MAC_BYTES]).rstrip(b"=").decode()
        return Probe(token=Secret(token), secret=Secret(self._mac(b"secret", claims).hex()), expires_at=expires_at)

    def _mac(self, purpose: bytes, claims: bytes) -> bytes:
        return hmac.digest(self._key, purpose + claims, "sha256")


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
