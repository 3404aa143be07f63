"""procrastinate as a deliverer of webhooks: each job is one POST with aiohttp, 32 jobs at a time.

It runs with its own Python, in which procrastinate is installed: ``procrastinate_worker.py prepare|defer|work DATABASE
SINK_PORT COUNT``. ``work`` runs all jobs, and prints the rate and the CPU time for each.
"""

import asyncio
import json
import os
import sys
import time

import aiohttp
import procrastinate  # type: ignore[import-not-found]  # only in the Python that a run installs

CONCURRENCY = 32
_BATCH = 500
_BODY = {"type": "task.succeed", "data": {"images": ["x" * 700]}}
_HEADERS = {"content-type": "application/json", "webhook-id": "evt_1", "webhook-timestamp": "1785901861"}


async def run(what: str, database: str, sink: str, count: int) -> None:
    """Do one step in the database."""
    app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=database, max_size=CONCURRENCY))
    url = f"http://127.0.0.1:{sink}/hook"
    async with app.open_async(), aiohttp.ClientSession() as session:

        @app.task(name="deliver")  # type: ignore[untyped-decorator]  # procrastinate is not installed here
        async def deliver(body: object) -> None:
            async with session.post(url, data=json.dumps(body), headers=_HEADERS) as response:
                response.raise_for_status()

        if what == "prepare":
            await app.schema_manager.apply_schema_async()
        elif what == "defer":
            for start in range(0, count, _BATCH):
                await deliver.batch_defer_async(*[{"body": _BODY}] * min(_BATCH, count - start))
        else:
            await _work(app, count)


async def _work(app: procrastinate.App, count: int) -> None:
    began, used = time.perf_counter(), sum(os.times()[:2])
    await app.run_worker_async(concurrency=CONCURRENCY, wait=False, install_signal_handlers=False)
    seconds, cpu = time.perf_counter() - began, sum(os.times()[:2]) - used
    print(json.dumps({"rate": count / seconds, "cpu": cpu / count * 1e6}))


if __name__ == "__main__":
    asyncio.run(run(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])))
