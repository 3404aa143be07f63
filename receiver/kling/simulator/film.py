"""Makes small real videos: H.264 in MP4, a slow pan over a landscape. Every player can show them.

The first frame is written as plain samples. Each further frame says "as before, moved by two pixels", and has plain
samples only for its right edge. So no encoder is needed.
"""

import re
import struct
from collections.abc import Sequence

from receiver.kling.simulator.landscape import Landscape, landscape

WIDTH, HEIGHT = 256, 144
FRAMES, FRAMES_PER_SECOND = 24, 12

_BLOCK = 16
_ACROSS, _DOWN = WIDTH // _BLOCK, HEIGHT // _BLOCK
_STEP = 2  # pixels per frame: with one, the colours would move by half a sample and blur
_QUARTERS = 4  # the unit of a motion vector is a quarter of a pixel
_PLAIN, _PLAIN_IN_P = 25, 30  # the types of a block with plain samples, by the kind of its slice
_TIMESCALE = 1200
_EMULATION = re.compile(rb"\x00\x00(?=[\x00-\x03])")


def film(seed: bytes) -> bytes:
    """Return the video of a seed of 32 bytes."""
    scene = _Samples(landscape(seed, WIDTH + FRAMES * _STEP, HEIGHT))
    samples = [_first_frame(scene), *(_moved_frame(scene, number) for number in range(1, FRAMES))]
    sizes = [struct.pack(">I", len(sample)) + sample for sample in samples]
    kind = _box(b"ftyp", b"isom", struct.pack(">I", 512), b"isomiso2avc1mp41")
    head = len(kind) + len(_movie(sizes, 0)) + 8
    return kind + _movie(sizes, head) + _box(b"mdat", *sizes)


class _Samples:
    """The brightness and the two colours of a landscape, as a video has them."""

    def __init__(self, picture: Landscape) -> None:
        tables = [bytes(values) for values in zip(*map(_convert, picture.palette), strict=True)]
        self._brightness = [row.translate(tables[0]) for row in picture.rows]
        self._colours = [[row[::2].translate(table) for row in picture.rows[::2]] for table in tables[1:]]

    def block(self, x: int, y: int) -> bytes:
        """Return the samples of a block, whose corner is at *x* and *y*."""
        rows = [row[x : x + _BLOCK] for row in self._brightness[y : y + _BLOCK]]
        x, y, half = x // 2, y // 2, _BLOCK // 2
        for plane in self._colours:
            rows += [row[x : x + half] for row in plane[y : y + half]]
        return b"".join(rows)


def _convert(colour: tuple[int, int, int]) -> tuple[int, int, int]:
    """Convert a colour to brightness and colour differences (BT.601)."""
    red, green, blue = (part / 255 for part in colour)
    return (
        round(16 + 65.481 * red + 128.553 * green + 24.966 * blue),
        round(128 - 37.797 * red - 74.203 * green + 112 * blue),
        round(128 + 112 * red - 93.786 * green - 18.214 * blue),
    )


class _Bits:
    """Writes the codes of H.264."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._rest = ""

    def text(self, digits: str) -> None:
        """Write binary digits."""
        self._rest += digits
        if whole := len(self._rest) // 8 * 8:
            self._bytes += int(self._rest[:whole], 2).to_bytes(whole // 8, "big")
            self._rest = self._rest[whole:]

    def fixed(self, value: int, width: int) -> None:
        """Write a number with a fixed width."""
        self.text(format(value, f"0{width}b"))

    def golomb(self, *values: int) -> None:
        """Write numbers as Exp-Golomb codes."""
        self.text("".join(_golomb(value) for value in values))

    def samples(self, content: bytes) -> None:
        """Write whole bytes, from the next full byte on."""
        if self._rest:
            self.fixed(0, 8 - len(self._rest))
        self._bytes += content

    def unit(self, kind: int) -> bytes:
        """Return everything as a unit of this kind."""
        self.fixed(1, 1)
        self.samples(b"")
        return bytes([kind]) + _EMULATION.sub(b"\x00\x00\x03", bytes(self._bytes))


def _sequence_parameters() -> bytes:
    bits = _Bits()
    bits.samples(bytes([66, 0xC0, 30]))  # baseline profile, level 3.0
    bits.golomb(0, 0, 2, 1)
    bits.fixed(0, 1)
    bits.golomb(_ACROSS - 1, _DOWN - 1)
    bits.fixed(0b1100, 4)  # frames, not fields; neither cropped nor described further
    return bits.unit(0x67)


def _picture_parameters() -> bytes:
    bits = _Bits()
    bits.golomb(0, 0)
    bits.fixed(0, 2)
    bits.golomb(0, 0, 0)
    bits.fixed(0, 3)
    bits.golomb(0, 0, 0)
    bits.fixed(0b100, 3)  # a slice says whether its blocks are smoothed
    return bits.unit(0x68)


def _first_frame(scene: _Samples) -> bytes:
    bits = _Bits()
    bits.golomb(0, 7, 0)
    bits.fixed(0, 4)
    bits.golomb(0)
    bits.fixed(0, 2)
    bits.golomb(0, 1)  # no change of quality, no smoothing
    for y in range(0, HEIGHT, _BLOCK):
        for x in range(0, WIDTH, _BLOCK):
            bits.golomb(_PLAIN)
            bits.samples(scene.block(x, y))
    return bits.unit(0x65)


def _moved_frame(scene: _Samples, number: int) -> bytes:
    bits = _Bits()
    bits.golomb(0, 5, 0)
    bits.fixed(number % 16, 4)
    bits.fixed(0, 3)
    bits.golomb(0, 1)
    motion = _golomb(2 * _STEP * _QUARTERS - 1)
    for y in range(0, HEIGHT, _BLOCK):
        # Each block: none is skipped, moved as a whole, by how much more than its neighbours, and nothing else changes.
        moved = ["11" + (motion if x == y == 0 else "1") + "11" for x in range(_ACROSS - 1)]
        bits.text("".join(moved) + _golomb(0) + _golomb(_PLAIN_IN_P))
        bits.samples(scene.block(WIDTH - _BLOCK + number * _STEP, y))
    return bits.unit(0x61)


def _golomb(value: int) -> str:
    """Return the Exp-Golomb code of a number."""
    return format(value + 1, f"0{2 * (value + 1).bit_length() - 1}b")


def _movie(samples: Sequence[bytes], first_at: int) -> bytes:
    """Return the description of the video, whose samples begin at *first_at*."""
    length = FRAMES * _TIMESCALE // FRAMES_PER_SECOND
    matrix = struct.pack(">9I", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
    times = struct.pack(">4I", 0, 0, _TIMESCALE, length)
    header = _full(b"mvhd", times, struct.pack(">IH10x", 0x10000, 0x100), matrix, bytes(24), struct.pack(">I", 2))
    shown = struct.pack(">5I8x4H", 0, 0, 1, 0, length, 0, 0, 0, 0)
    track = _full(b"tkhd", shown, matrix, struct.pack(">II", WIDTH << 16, HEIGHT << 16), flags=3)
    medium = _box(
        b"mdia",
        _full(b"mdhd", times, struct.pack(">HH", 0x55C4, 0)),
        _full(b"hdlr", bytes(4), b"vide", bytes(12), b"landscape\x00"),
        _box(
            b"minf",
            _full(b"vmhd", bytes(8), flags=1),
            _box(b"dinf", _full(b"dref", struct.pack(">I", 1), _full(b"url ", flags=1))),
            _sample_table(samples, first_at),
        ),
    )
    return _box(b"moov", header, _box(b"trak", track, medium))


def _sample_table(samples: Sequence[bytes], first_at: int) -> bytes:
    sequence, picture = _sequence_parameters(), _picture_parameters()
    sets = b"".join(struct.pack(">BH", 1, len(each)) + each for each in (sequence, picture))
    codec = _box(b"avcC", bytes([1, *sequence[1:4], 0xFF, 0xE1]), sets[1:])
    look = struct.pack(">6xH16xHHII4xH32xHh", 1, WIDTH, HEIGHT, 0x480000, 0x480000, 1, 24, -1)
    sizes = struct.pack(f">II{len(samples)}I", 0, len(samples), *map(len, samples))
    return _box(
        b"stbl",
        _full(b"stsd", struct.pack(">I", 1), _box(b"avc1", look, codec)),
        _full(b"stts", struct.pack(">3I", 1, len(samples), _TIMESCALE // FRAMES_PER_SECOND)),
        _full(b"stss", struct.pack(">2I", 1, 1)),
        _full(b"stsc", struct.pack(">4I", 1, 1, len(samples), 1)),
        _full(b"stsz", sizes),
        _full(b"stco", struct.pack(">2I", 1, first_at)),
    )


def _full(kind: bytes, *parts: bytes, flags: int = 0) -> bytes:
    return _box(kind, struct.pack(">I", flags), *parts)


def _box(kind: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return struct.pack(">I", 8 + len(body)) + kind + body
