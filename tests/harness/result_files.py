"""Results of known content: a server that sends them, and the check of archived files against their source."""

import asyncio
import contextlib
import hashlib
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from random import Random
from urllib.parse import urlsplit

from harness.http_peers import http_peer, response
from harness.running_service import Receiver

_MAX_BYTES = 100_000
_PAUSE_SECONDS = 0.02  # in the middle of each file, so that kills meet half a file


def source(number: int) -> bytes:
    """Return the file with this number, always the same bytes."""
    rng = Random(number)
    return b"\x89PNG\r\n\x1a\n" + rng.randbytes(rng.randrange(1, _MAX_BYTES))


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    answer = response(200, source(_number(head.split()[1].decode())), content_type="image/png", etag='"v1"')
    half = len(answer) // 2
    writer.write(answer[:half])
    await asyncio.sleep(_PAUSE_SECONDS)
    writer.write(answer[half:])


def _number(path: str) -> int:
    return int(path.strip("/"))


@contextlib.asynccontextmanager
async def a_file_server() -> AsyncIterator[str]:
    """Serve every file at its number. Yield the URL."""
    async with http_peer(_answer, reads_requests=False) as peer:
        yield peer.url


def archived_files(receiver: Receiver) -> tuple[int, Sequence[str]]:
    """Compare the file of each success with its source. Return how many there are, and those that differ."""
    found = receiver.rows("SELECT ENVELOPE(envelope, body) FROM events WHERE type = 'task.succeed'")
    events = [json.loads(envelope)["data"] for (envelope,) in found]
    files = [
        (result["url"], {asset["url"]: asset for asset in data.get("assets", ())}.get(result["url"]))
        for data in events
        for result in data["result"]["images"]
    ]
    return len(files), [url for url, asset in files if asset is None or not _is_source(url, asset)]


def _is_source(url: str, asset: dict[str, object]) -> bool:
    content = source(_number(urlsplit(url).path))
    described = (asset["sha256"], asset["bytes"]) == (hashlib.sha256(content).hexdigest(), len(content))
    return described and Path(str(asset["path"])).read_bytes() == content
