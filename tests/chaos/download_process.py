"""A process that stores downloaded files and prints a line for each one as soon as it is durable.

home 0.png 5f1d...     the file has its final name; the digest of its content
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
    """Return the bytes of a file, always the same."""
    return Random(number).randbytes(SIZES[number])


async def store_file(folder: Path, number: int) -> None:
    """Store a file piece by piece, then print its line."""
    berth, data = PartialFile(folder, number, free_space=lambda _: 1 << 40), content(number)
    assert await berth.open() is None
    await berth.start(ContentInfo(offset=0, size=None, content_type="image/png", validator='"v1"'))
    for start in range(0, len(data), PIECE):
        await berth.write(data[start : start + PIECE])
    asset = await berth.finish("https://cdn.example.com/")
    sys.stdout.write(f"home {Path(str(asset.path)).name} {asset.sha256.hex()}\n")
    sys.stdout.flush()


async def main(folder: Path) -> None:
    """Store every file."""
    for number in range(len(SIZES)):
        await store_file(folder, number)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
