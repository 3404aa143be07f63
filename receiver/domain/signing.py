"""Standard Webhooks signatures: sign outgoing requests, verify incoming ones.

Specified at https://www.standardwebhooks.com. The signed text is ``id.timestamp.body`` under HMAC-SHA256.
The header has one ``v1,<base64>`` per secret, so that two are valid while one replaces the other.
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import lru_cache

from receiver.domain.clock import EPOCH
from receiver.domain.secret import Secret
from receiver.domain.text_enum import TextEnum

ID_HEADER = "webhook-id"
TIMESTAMP_HEADER = "webhook-timestamp"
SIGNATURE_HEADER = "webhook-signature"
TOLERANCE = timedelta(minutes=5)

_PREFIX = "whsec_"
_VERSION = "v1"
_MAX_SIGNATURES = 32  # each one costs a comparison per secret
_MAX_DIGITS = 15
_BLOCK_SIZE = 64
_INNER_PAD, _OUTER_PAD = (bytes(byte ^ pad for byte in range(256)) for pad in (0x36, 0x5C))


class SignatureStatus(TextEnum):
    """The result of verifying a request's signature."""

    ABSENT = "absent"  # no signature headers at all
    GOOD = "good"
    BAD = "bad"  # wrong, too old, from the future, malformed, or incomplete


def sign(secrets: Sequence[Secret], *, message_id: str, at: datetime, body: bytes) -> str:
    """Return the value of ``webhook-signature``: one signature per secret, in their order."""
    content = _content(message_id.encode(), b"%d" % _seconds(at), body)
    return " ".join(f"{_VERSION},{base64.b64encode(_digest(secret, content)).decode()}" for secret in secrets)


def timestamp(at: datetime) -> str:
    """Return the value of ``webhook-timestamp``: whole seconds since the epoch."""
    return str(_seconds(at))


def verify(
    secrets: Sequence[Secret],
    headers: Mapping[str, str],
    body: bytes,
    *,
    now: datetime,
    tolerance: timedelta = TOLERANCE,
) -> SignatureStatus:
    """Return whether one of *secrets* signed *body* within *tolerance* of *now*. Header names are in lower case.

    It never raises, for any header values. Without a secret no signature is good.
    """
    parts = [headers.get(name) for name in (ID_HEADER, TIMESTAMP_HEADER, SIGNATURE_HEADER)]
    if all(part is None for part in parts):
        return SignatureStatus.ABSENT
    message_id, sent_at, offered = (part or "" for part in parts)
    if not message_id or not _is_recent(sent_at, now, tolerance):
        return SignatureStatus.BAD
    content = _content(_bytes(message_id), _bytes(sent_at), body)
    usable = [secret for secret in secrets if decode_key(secret)]  # any sender can sign with an empty key
    expected = [_digest(secret, content) for secret in usable]
    matches = [hmac.compare_digest(known, given) for given in _digests(offered) for known in expected]
    return SignatureStatus.GOOD if any(matches) else SignatureStatus.BAD


@lru_cache(maxsize=64)
def decode_key(secret: Secret) -> bytes:
    """Return the key: the base64 after ``whsec_`` decoded, padded or not.

    Without that prefix, strict base64 is decoded, as the libraries do. Any other text is itself the key.
    """
    text = secret.reveal().strip()
    if not text.startswith(_PREFIX):
        try:
            return base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            return text.encode()
    encoded = text.removeprefix(_PREFIX).rstrip("=").translate(str.maketrans("-_", "+/"))
    try:
        return base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except (binascii.Error, ValueError):
        return text.encode()


def _digest(secret: Secret, content: bytes) -> bytes:
    """Return the HMAC. Copies of the key's two hashes cost a third of ``hmac.digest``, which begins with the key."""
    inner, outer = (begun.copy() for begun in _key_hashes(secret))
    inner.update(content)
    outer.update(inner.digest())
    return outer.digest()


@lru_cache(maxsize=64)
def _key_hashes(secret: Secret) -> tuple["hashlib._Hash", "hashlib._Hash"]:
    """Return the inner and the outer hash of HMAC (RFC 2104) after the key."""
    key = decode_key(secret)
    block = (hashlib.sha256(key).digest() if len(key) > _BLOCK_SIZE else key).ljust(_BLOCK_SIZE, b"\0")
    return hashlib.sha256(block.translate(_INNER_PAD)), hashlib.sha256(block.translate(_OUTER_PAD))


def _content(message_id: bytes, sent_at: bytes, body: bytes) -> bytes:
    return b"%b.%b.%b" % (message_id, sent_at, body)


def _digests(offered: str) -> Sequence[bytes]:
    """Parse the signatures of version ``v1``. Skip other versions and invalid base64."""
    digests = []
    for entry in offered.split(maxsplit=_MAX_SIGNATURES)[:_MAX_SIGNATURES]:
        version, _, encoded = entry.partition(",")
        if version != _VERSION:
            continue
        try:
            digests.append(base64.b64decode(encoded, validate=True))
        except (binascii.Error, ValueError):
            continue
    return digests


def _is_recent(sent_at: str, now: datetime, tolerance: timedelta) -> bool:
    if not (sent_at.isascii() and sent_at.isdigit() and len(sent_at) <= _MAX_DIGITS):
        return False
    return abs((now - EPOCH).total_seconds() - int(sent_at)) <= tolerance.total_seconds()


def _seconds(at: datetime) -> int:
    return int((at - EPOCH).total_seconds())


def _bytes(text: str) -> bytes:
    """Return a header value as the bytes on the wire. Servers decode headers as Latin-1."""
    return text.encode("latin-1", "replace")
