"""Makes one thumbnail: a picture on stdin becomes a small WebP on stdout. The exit code is 1 if that is impossible.

Pictures come from servers that we do not trust, and decoders of pictures have had many security bugs. So each picture
is decoded in a process of its own, with little memory, little time, no secrets and no files. `previews` runs this
file as a script; it imports nothing of the receiver, so it starts fast.
"""

import os
import resource
import sys
import warnings

SIDE = 320
"""The longest side of a thumbnail, in pixels."""

MAX_PIXELS = 50_000_000
"""The most pixels of a picture: more than any that Kling makes, and at most 200 MB when decoded."""

_FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
_QUALITY = 75
_MEMORY = 1024 * 1024 * 1024
_LIMITS = {
    resource.RLIMIT_AS: _MEMORY,
    resource.RLIMIT_CPU: 10,  # seconds
    resource.RLIMIT_FSIZE: 0,
    resource.RLIMIT_NOFILE: 64,
    resource.RLIMIT_CORE: 0,
}
_NICENESS = 10  # callbacks and deliveries go first


def main() -> int:
    """Read a picture, write its thumbnail, and return the exit code."""
    for limit, value in _LIMITS.items():
        resource.setrlimit(limit, (value, value))
    os.nice(_NICENESS)
    warnings.simplefilter("error")  # Pillow only warns of some bombs
    try:
        _make_thumbnail()
    except Exception:  # noqa: BLE001 -- a decoder may raise anything
        return 1
    return 0


def _make_thumbnail() -> None:
    from PIL import Image, ImageOps  # noqa: PLC0415 -- an extra, and imported under the limits

    Image.MAX_IMAGE_PIXELS = MAX_PIXELS
    with Image.open(sys.stdin.buffer, formats=_FORMATS) as picture:
        picture.draft("RGB", (2 * SIDE, 2 * SIDE))  # a JPEG is decoded at a smaller size
        upright = ImageOps.exif_transpose(picture)
        upright.thumbnail((SIDE, SIDE))
        drawn = upright.convert("RGBA" if upright.has_transparency_data else "RGB")
    drawn.save(sys.stdout.buffer, "WEBP", quality=_QUALITY, icc_profile=b"", exif=b"", xmp=b"")


if __name__ == "__main__":
    sys.exit(main())
