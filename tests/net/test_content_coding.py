"""A body in gzip or deflate is decoded, within a limit; any other is not guessed at."""

import gzip
import time
import zlib

import pytest

from receiver.net.content_coding import decode

TEXT = b'{"code": 0}' * 50


def _gzip(body: bytes) -> bytes:
    return gzip.compress(body, mtime=0)  # the same bytes in each process that collects these tests


def _raw_deflate(body: bytes) -> bytes:
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return deflater.compress(body) + deflater.flush()


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("", TEXT),
        ("identity", TEXT),
        ("gzip", _gzip(TEXT)),
        ("X-GZIP", _gzip(TEXT)),
        ("gzip", _gzip(TEXT[:100]) + _gzip(TEXT[100:])),
        ("deflate", zlib.compress(TEXT)),
        ("deflate", _raw_deflate(TEXT)),
        ("deflate, gzip", _gzip(zlib.compress(TEXT))),
        ("gzip", b""),
    ],
)
def test_a_known_coding_is_decoded(coding: str, body: bytes) -> None:
    assert decode(body, coding, max_size=len(TEXT)) == (TEXT if body else b"")


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("br", b"\x8b\x02\x80"),
        ("gzip", TEXT),
        ("gzip", _gzip(TEXT)[:-4]),
        ("gzip", _gzip(TEXT) + b"tail"),
        ("deflate", b"\xff\xff"),
        ("gzip, gzip, gzip, gzip", TEXT),
    ],
)
def test_an_unknown_coding_and_a_broken_body_are_not_decoded(coding: str, body: bytes) -> None:
    assert decode(body, coding, max_size=len(TEXT)) is None


def test_a_body_that_would_grow_beyond_the_limit_is_not_decoded() -> None:
    bomb = _gzip(bytes(100_000_000))

    assert decode(bomb, "gzip", max_size=1_000_000) is None
    assert decode(bomb[:30_000], "deflate", max_size=1_000_000) is None
    assert decode(_gzip(TEXT), "gzip", max_size=len(TEXT) - 1) is None


def test_a_file_of_very_many_members_is_refused_at_once() -> None:
    begun = time.thread_time()

    assert decode(gzip.compress(b"") * 50_000, "gzip", max_size=1 << 20) is None
    assert time.thread_time() - begun < 1
