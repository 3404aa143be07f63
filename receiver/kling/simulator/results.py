"""Results of tasks: valid images, sounds and videos, generated on download, with expiring URLs."""

import hashlib
import hmac
import math
import re
import struct
import zlib
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from functools import lru_cache
from urllib.parse import quote

from receiver.domain.clock import EPOCH
from receiver.kling.simulator.film import film
from receiver.kling.simulator.landscape import landscape

SIDE = 320
SECONDS = 1

_FAST = 3  # the level of compression
_RATE = 8000
_NAME = re.compile(r"(?:image|video|audio)-\d{1,3}\.(png|mp4|mp3|wav)")
_TYPES = {"png": "image/png", "mp4": "video/mp4", "mp3": "audio/mpeg", "wav": "audio/wav"}


class Results:
    """Signs and serves results. The signature covers path and expiry, so a URL cannot be guessed or extended."""

    def __init__(self, *, base_url: str, key: bytes, lifetime: timedelta) -> None:
        self._base_url = base_url.rstrip("/")
        self._key = key
        self._lifetime = lifetime

    def url(self, task_id: str, name: str, *, at: datetime) -> str:
        """Return the URL of a result, valid from *at* for the lifetime of results."""
        expires = str(int((at + self._lifetime - EPOCH).total_seconds()))
        path = f"/results/{quote(task_id)}/{name}"
        return f"{self._base_url}{path}?x-expires={expires}&x-signature={self._sign(path, expires)}"

    def fetch(self, task_id: str, name: str, query: Mapping[str, str], *, at: datetime) -> tuple[bytes, str] | None:
        """Return a result and its content type; None if the URL is invalid or has expired."""
        named = _NAME.fullmatch(name)
        expires, signature = query.get("x-expires", ""), query.get("x-signature", "")
        signed = self._sign(f"/results/{quote(task_id)}/{name}", expires)
        if named is None or not hmac.compare_digest(signed.encode(), signature.encode()):
            return None
        if at >= EPOCH + timedelta(seconds=int(expires)):
            return None
        return content(task_id, name), _TYPES[named[1]]

    def _sign(self, path: str, expires: str) -> str:
        return hmac.new(self._key, f"{path}?{expires}".encode(), hashlib.sha256).hexdigest()


@lru_cache(maxsize=256)
def content(task_id: str, name: str) -> bytes:
    """Return the bytes of a result: always the same for a task and name, and different for any other."""
    return _MAKERS[name.rpartition(".")[2]](hashlib.sha256(f"{task_id}/{name}".encode()).digest())


def png(seed: bytes) -> bytes:
    """Return the landscape of 32 bytes of *seed*."""
    picture = landscape(seed, SIDE, SIDE)
    header = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 3, 0, 0, 0)  # eight bits per pixel, with a palette
    rows = b"".join(b"\x00" + row for row in picture.rows)
    palette = b"".join(bytes(colour) for colour in picture.palette)
    chunks = [(b"IHDR", header), (b"PLTE", palette), (b"IDAT", zlib.compress(rows, _FAST)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, body) for kind, body in chunks)


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def wav(seed: bytes) -> bytes:
    """Return one second of a tone whose pitch depends on *seed*."""
    pitch = 220 + seed[0] * 2
    samples = bytes(int(128 + 60 * math.sin(2 * math.pi * pitch * n / _RATE)) for n in range(_RATE * SECONDS))
    form = struct.pack("<HHIIHH", 1, 1, _RATE, _RATE, 1, 8)
    body = b"WAVEfmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", len(samples)) + samples
    return b"RIFF" + struct.pack("<I", len(body)) + body


def mp3(seed: bytes) -> bytes:
    """Return one second of silence: a tag with *seed*, then empty MPEG-1 layer III frames of 128 kbit/s."""
    text = b"\x00" + seed.hex().encode()
    frame = b"TIT2" + struct.pack(">I", len(text)) + bytes(2) + text
    tag = b"ID3\x03\x00\x00" + bytes([0, 0, 0, len(frame)]) + frame
    return tag + (b"\xff\xfb\x90\xc0" + bytes(413)) * (39 * SECONDS)


_MAKERS: Mapping[str, Callable[[bytes], bytes]] = {"png": png, "mp4": film, "mp3": mp3, "wav": wav}
