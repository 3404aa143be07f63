"""Draws landscapes: a sky with a sun, and three ranges of hills. Every seed has its own, and each is quick to draw."""

import colorsys
import math
from collections.abc import Sequence
from dataclasses import dataclass

_SKY, _SUN, _HILL = 96, 8, 48  # the shades of each part of the palette
_HILLS = 3
_SUN_AT, _HILLS_AT = _SKY, _SKY + _SUN
_SHADES = 256
_MOODS = (  # hue at the top of the sky, hue at the horizon, hue of the hills; in degrees
    (222, 330, 225),  # dawn
    (205, 190, 150),  # noon
    (265, 20, 280),  # dusk
    (230, 195, 215),  # night
    (190, 160, 175),  # mint
    (330, 45, 300),  # rose
)

Colour = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Landscape:
    """A picture: its rows, one shade for each pixel, and the colour of each shade."""

    width: int
    rows: Sequence[bytes]
    palette: Sequence[Colour]


def landscape(seed: bytes, width: int, height: int) -> Landscape:
    """Draw the landscape of a seed of 32 bytes."""
    skyline = bytes(min(_SKY - 1, y * _SKY // height) for y in range(height))
    grounds = [
        bytes(_HILLS_AT + hill * _HILL + min(_HILL - 1, y * _HILL // height) for y in range(height))
        for hill in range(_HILLS)
    ]
    columns = []
    for x in range(width):
        tops = _tops(seed, x, height)
        column = _sky(seed, x, width, skyline)[: tops[0]]
        for hill, ground in enumerate(grounds):
            column += ground[tops[hill] : tops[hill + 1]]
        columns.append(column)
    shades = b"".join(columns)
    return Landscape(width, [shades[y::height] for y in range(height)], _palette(seed))


def _sky(seed: bytes, x: int, width: int, skyline: bytes) -> bytes:
    """Return one column of the sky, with the sun if it stands there."""
    height = len(skyline)
    radius = height * (8 + seed[0] % 8) // 100
    centre, level = width * (20 + seed[1] % 60) // 100, height * (18 + seed[2] % 24) // 100
    distance = abs(x - centre)
    if distance >= radius:
        return skyline
    half = math.isqrt(radius * radius - distance * distance)
    shade = bytes([_SUN_AT + distance * _SUN // radius])
    return skyline[: level - half] + shade * (2 * half) + skyline[level + half :]


def _tops(seed: bytes, x: int, height: int) -> list[int]:
    """Return where each range of hills begins in a column, from the far one to the near one, and the bottom."""
    tops, last = [], 0
    for hill in range(_HILLS):
        slow, fast, phase = seed[3 + hill] % 5 + 3, seed[6 + hill] % 9 + 12, seed[9 + hill]
        wave = math.sin(x * slow / height + phase) + math.sin(x * fast / height + 2 * phase) / 3
        top = round(height * (0.5 + 0.17 * hill + 0.07 * wave))
        last = min(max(top, last), height)
        tops.append(last)
    return [*tops, height]


def _palette(seed: bytes) -> Sequence[Colour]:
    high, low, ground = (hue + seed[12] % 24 - 12 for hue in _MOODS[seed[13] % len(_MOODS)])
    is_night = seed[13] % len(_MOODS) == 3  # noqa: PLR2004 -- its place in the table
    bright, pale = (0.35, 0.75) if is_night else (0.78, 1.0)
    turn = (low - high + 180) % 360 - 180  # the short way around the circle of hues
    colours = [
        _colour(high + turn * part, 0.62 - 0.34 * part, bright + (pale - bright) * part)
        for part in (shade / _SKY for shade in range(_SKY))
    ]
    colours += [_colour(low, 0.06 + 0.02 * shade, 1.0) for shade in range(_SUN)]
    for hill in range(_HILLS):
        light = (0.62, 0.44, 0.27)[hill] * (0.7 if is_night else 1)
        colours += [_colour(ground + 6 * hill, 0.35 + 0.12 * hill, light + 0.16 * s / _HILL) for s in range(_HILL)]
    return colours + [(0, 0, 0)] * (_SHADES - len(colours))


def _colour(hue: float, saturation: float, value: float) -> Colour:
    red, green, blue = colorsys.hsv_to_rgb(hue % 360 / 360, saturation, min(value, 1.0))
    return round(255 * red), round(255 * green), round(255 * blue)
