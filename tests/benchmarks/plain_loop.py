"""A plain loop of what a delivery is made of, without a service around it.

``python -m benchmarks.plain_loop WHAT PORT COUNT`` prints the rate and the CPU time. WHAT is ``ours`` or ``aiohttp``, a
pooled HTTP client that posts to the sink at PORT, 32 at a time; or ``spawn``, which starts /bin/true and waits for it.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta

import aiohttp
import uvloop

from receiver.net.http_client import HttpClient

CONCURRENCY = 32
_BODY = json.dumps({"type": "task.succeed", "data": {"images": ["x" * 700]}}).encode()
_HEADERS = {"content-type": "application/json", "webhook-id": "evt_1", "webhook-timestamp": "1785901861"}

Post = Callable[[str], Awaitable[int]]


def run(what: str, port: int, count: int) -> dict[str, float]:
    """Do it *count* times. Return the number per second, and microseconds of CPU time for each."""
    if what == "spawn":
        return _spawn(count)
    client = {"ours": _with_ours, "aiohttp": _with_aiohttp}[what]
    return uvloop.run(client(f"http://127.0.0.1:{port}/hook", count))


def _spawn(count: int) -> dict[str, float]:
    began, used = time.perf_counter(), _cpu_with_children()
    for _ in range(count):
        os.waitpid(os.posix_spawn("/bin/true", ["/bin/true"], {}), 0)
    return {"rate": count / (time.perf_counter() - began), "cpu": (_cpu_with_children() - used) / count * 1e6}


def _cpu_with_children() -> float:
    return sum(os.times()[:4])


async def _with_ours(url: str, count: int) -> dict[str, float]:
    client = HttpClient(user_agent="benchmark", max_connections=CONCURRENCY)

    async def post(url: str) -> int:
        response = await client.request(
            "POST", url, headers=_HEADERS, content=_BODY, time_limit=timedelta(seconds=15), max_body=4096
        )
        return response.status

    try:
        return await _measure(post, url, count)
    finally:
        await client.aclose()


async def _with_aiohttp(url: str, count: int) -> dict[str, float]:
    connector = aiohttp.TCPConnector(limit=CONCURRENCY)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=15)) as session:

        async def post(url: str) -> int:
            async with session.post(url, headers=_HEADERS, data=_BODY) as response:
                await response.read()
                return response.status

        return await _measure(post, url, count)


async def _measure(post: Post, url: str, count: int) -> dict[str, float]:
    remaining = iter(range(count))

    async def worker() -> None:
        for _ in remaining:
            if (status := await post(url)) != 200:
                raise RuntimeError(f"the sink answered {status}")

    began, used = time.perf_counter(), time.process_time()
    await asyncio.gather(*(worker() for _ in range(CONCURRENCY)))
    return {"rate": count / (time.perf_counter() - began), "cpu": (time.process_time() - used) / count * 1e6}


if __name__ == "__main__":
    print(json.dumps(run(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
