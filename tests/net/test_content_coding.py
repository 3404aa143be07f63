"""A body in gzip or deflate is decoded, within a limit; any other is not guessed at."""

import gzip
import zlib

import pytest

from receiver.net.content_coding import decode

TEXT = b'{"code": 0}' * 50


def _raw_deflate(body: bytes) -> bytes:
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return deflater.compress(body) + deflater.flush()


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("", TEXT),
        ("identity", TEXT),
        ("gzip", gzip.compress(TEXT)),
        ("X-GZIP", gzip.compress(TEXT)),
        ("gzip", gzip.compress(TEXT[:100]) + gzip.compress(TEXT[100:])),
        ("deflate", zlib.compress(TEXT)),
        ("deflate", _raw_deflate(TEXT)),
        ("deflate, gzip", gzip.compress(zlib.compress(TEXT))),
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
        ("gzip", gzip.compress(TEXT)[:-4]),
        ("gzip", gzip.compress(TEXT) + b"tail"),
        ("deflate", b"\xff\xff"),
        ("gzip, gzip, gzip, gzip", TEXT),
    ],
)
def test_an_unknown_coding_and_a_broken_body_are_not_decoded(coding: str, body: bytes) -> None:
    assert decode(body, coding, max_size=len(TEXT)) is None


def test_a_body_that_would_grow_beyond_the_limit_is_not_decoded() -> None:
    bomb = gzip.compress(bytes(100_000_000))

    assert decode(bomb, "gzip", max_size=1_000_000) is None
    assert decode(bomb[:30_000], "deflate", max_size=1_000_000) is None
    assert decode(gzip.compress(TEXT), "gzip", max_size=len(TEXT) - 1) is None
