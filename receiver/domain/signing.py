"""Standard Webhooks signatures: sign what leaves, check what arrives.

Written down at https://www.standardwebhooks.com. The signed text is ``id.timestamp.body`` under HMAC-SHA256;
a header carries one ``v1,<base64>`` per secret, so that two hold while one is being replaced.
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from functools import lru_cache

from receiver.domain.clock import EPOCH
from receiver.domain.model import Secret

ID_HEADER = "webhook-id"
TIMESTAMP_HEADER = "webhook-timestamp"
SIGNATURE_HEADER = "webhook-signature"
TOLERANCE = timedelta(minutes=5)

_PREFIX = "whsec_"
_VERSION = "v1"
_MAX_SIGNATURES = 32  # each one offered costs a comparison per secret
_MAX_DIGITS = 15


class SignatureStatus(StrEnum):
    """What a request's signature is worth."""

    ABSENT = "absent"  # no signature headers at all
    GOOD = "good"
    BAD = "bad"  # wrong, too old, from the future, malformed, or only in part


def sign(secrets: Sequence[Secret], *, message_id: str, at: datetime, body: bytes) -> str:
    """Make the value of ``webhook-signature``: one signature per secret, in their order."""
    content = _content(message_id.encode(), b"%d" % _seconds(at), body)
    return " ".join(f"{_VERSION},{base64.b64encode(_digest(secret, content)).decode()}" for secret in secrets)


def timestamp(at: datetime) -> str:
    """Make the value of ``webhook-timestamp``: whole seconds since the epoch."""
    return str(_seconds(at))


def verify(
    secrets: Sequence[Secret],
    headers: Mapping[str, str],
    body: bytes,
    *,
    now: datetime,
    tolerance: timedelta = TOLERANCE,
) -> SignatureStatus:
    """Say whether one of *secrets* signed *body*, not longer ago than *tolerance*; header names in lower case.

    Whatever stands in the headers, it never raises. Without any secret nothing can be good.
    """
    parts = [headers.get(name) for name in (ID_HEADER, TIMESTAMP_HEADER, SIGNATURE_HEADER)]
    if all(part is None for part in parts):
        return SignatureStatus.ABSENT
    message_id, sent_at, offered = (part or "" for part in parts)
    if not message_id or not _is_recent(sent_at, now, tolerance):
        return SignatureStatus.BAD
    content = _content(_bytes(message_id), _bytes(sent_at), body)
    expected = [
        _digest(secret, content) for secret in secrets if decode_key(secret)
    ]  # anybody can sign with an empty key
    matches = [hmac.compare_digest(known, given) for given in _digests(offered) for known in expected]
    return SignatureStatus.GOOD if any(matches) else SignatureStatus.BAD


@lru_cache(maxsize=64)
def decode_key(secret: Secret) -> bytes:
    """Give the bytes of the key: what follows ``whsec_`` decoded from base64, padded or not; else the text itself."""
    text = secret.reveal().strip()
    if not text.startswith(_PREFIX):
        return text.encode()
    encoded = text.removeprefix(_PREFIX).rstrip("=").translate(str.maketrans("-_", "+/"))
    try:
        return base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except (binascii.Error, ValueError):
        return text.encode()


def _digest(secret: Secret, content: bytes) -> bytes:
    return hmac.digest(decode_key(secret), content, hashlib.sha256)


def _content(message_id: bytes, sent_at: bytes, body: bytes) -> bytes:
    return b"%b.%b.%b" % (message_id, sent_at, body)


def _digests(offered: str) -> Sequence[bytes]:
    """Read the signatures of the one version there is; skip what is of another or cannot be read."""
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
    """Turn a header's value back into what was on the wire; servers read headers as Latin-1."""
    return text.encode("latin-1", "replace")
