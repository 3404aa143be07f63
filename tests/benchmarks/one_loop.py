"""A server and its load generator on one event loop: they share one core, without wake-ups between processes.

``python -m benchmarks.one_loop PORT CONNECTIONS FILE`` posts FILE to the empty handler. With ``CONFIG`` appended, it
posts to the receiver with that configuration, which listens at PORT. Prints the result.
"""

import asyncio
import json
import signal
import sys
from collections.abc import Coroutine, Sequence
from pathlib import Path

import uvloop
from benchmarks import empty
from benchmarks.load import encode_requests, post_all, print_result

from receiver.service import bootstrap, logs
from receiver.settings import load


async def post_and_stop(
    server: Coroutine[object, object, object], port: int, connections: int, requests: Sequence[bytes]
) -> None:
    """Run *server*, post to it, print the result, and stop it."""
    serving = asyncio.create_task(server)
    while not await _listens(port):
        if serving.done():
            raise RuntimeError("the server has ended") from serving.exception()
        await asyncio.sleep(0.01)
    print_result(await post_all(port, requests, connections=connections))
    signal.raise_signal(signal.SIGTERM)
    await serving


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionRefusedError:
        return False
    writer.close()
    return True


def main(port: int, connections: int, file: Path, config: Path | None = None) -> None:
    """Measure the receiver with *config*, or the empty handler."""
    requests = encode_requests(json.loads(line) for line in file.read_text().splitlines())
    if config is None:
        server: Coroutine[object, object, object] = empty.server(empty.app, port).serve()
    else:
        logs.configure()
        server = bootstrap.run_until_stopped(load(config))
    uvloop.run(post_and_stop(server, port, connections, requests))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *map(Path, sys.argv[3:]))
