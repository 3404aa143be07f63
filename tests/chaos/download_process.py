"""A process that puts down files as they come from elsewhere and says of each, once it may be told of, that it is home.

home 0.png 5f1d...     a file is there under its name, and this is its digest
"""

import asyncio
import sys
from pathlib import Path
from random import Random

from receiver.archive.partial_file import PartialFile
from receiver.net.download import ContentInfo

PIECE = 64 * 1024
SIZES = (1, 70_000, 1_000_000, 18 * 1024 * 1024)


def content(number: int) -> bytes:
    """Give the bytes of a file, the same each time."""
    return Random(number).randbytes(SIZES[number])


async def store_file(folder: Path, number: int) -> None:
    """Put a file down a piece at a time, and tell of it."""
    berth, data = PartialFile(folder, number, free_space=lambda _: 1 << 40), content(number)
    assert await berth.open() is None
    await berth.start(ContentInfo(offset=0, size=None, content_type="image/png", validator='"v1"'))
    for start in range(0, len(data), PIECE):
        await berth.write(data[start : start + PIECE])
    asset = await berth.finish("https://cdn.example.com/")
    sys.stdout.write(f"home {Path(str(asset.path)).name} {asset.sha256.hex()}\n")
    sys.stdout.flush()


async def main(folder: Path) -> None:
    """Land every file."""
    for number in range(len(SIZES)):
        await store_file(folder, number)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
