"""Checks a request's key: an API key, or a token signed with access key and secret key."""

import base64
import binascii
import hashlib
import hmac
import json
from datetime import datetime

from receiver.domain.clock import EPOCH
from receiver.domain.model import Json
from receiver.kling.simulator.endpoints import ApiError
from receiver.kling.simulator.options import Options

_JWT_PARTS = 3


def check_key(header: str, options: Options, *, now: datetime, is_new: bool) -> None:
    """Raise ApiError 1000 to 1004 for an invalid header, like Kling; the new generation takes only API keys."""
    if not header.strip():
        raise ApiError(1001)
    scheme, _, key = header.strip().partition(" ")
    key = key.strip()
    if scheme.lower() != "bearer" or not key:
        raise ApiError(1002)
    if options.api_key and hmac.compare_digest(key.encode(), options.api_key.encode()):
        return
    if options.access_key and key.count(".") == _JWT_PARTS - 1 and not is_new:
        _check_token(key, options, now=(now - EPOCH).total_seconds())
    elif options.api_key or options.access_key:
        raise ApiError(1000)


def _check_token(token: str, options: Options, *, now: float) -> None:
    signed, _, signature = token.rpartition(".")
    header, claims = (_decode_part(part) for part in signed.split("."))
    if header.get("alg") != "HS256" or claims.get("iss") != options.access_key:
        raise ApiError(1000)
    expected = hmac.new(options.secret_key.encode(), signed.encode(), hashlib.sha256).digest()
    if not hmac.compare_digest(base64.urlsafe_b64encode(expected).rstrip(b"="), signature.encode()):
        raise ApiError(1000)
    expires, begins = claims.get("exp"), claims.get("nbf", 0)
    if not isinstance(expires, int | float) or not isinstance(begins, int | float):
        raise ApiError(1002)
    if begins > now:
        raise ApiError(1003)
    if expires <= now:
        raise ApiError(1004)


def _decode_part(text: str) -> Json:
    try:
        read = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (binascii.Error, ValueError):
        raise ApiError(1002) from None
    if not isinstance(read, dict):
        raise ApiError(1002)
    return read
