"""No descriptor is closed twice: in between, another thread may open a file under the same number, and lose it.

strace records every close of the real service and of no other process. A second close of a free number fails with
EBADF.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable
from pathlib import Path

from chaos.strace import attach, requires_strace
from harness.running_service import (
    Receiver,
    a_config,
    a_kling,
    a_receiver,
    a_script_route,
    a_sink,
    a_webhook_route,
    submit_task,
)
from harness.s3_server import ACCESS_KEY, BUCKET, SECRET_KEY, an_s3_server
from harness.waiting import wait_until

KEYS = {"S3_KEY": ACCESS_KEY, "S3_SECRET": SECRET_KEY}
STORAGE = f"""
[archive.storage]
url = "s3://{BUCKET}"
endpoint = "@S3@"
access_key = "env:S3_KEY"
secret_key = "env:S3_SECRET"
"""
ARCHIVE = '[archive]\ndir = "results"\n[network]\nallow = ["127.0.0.0/8"]\n'
TASKS = 5
MISSING = '[[routes]]\nname = "missing"\nscript = { command = ["/opt/none/publish"] }\nretry = ["1h"]\n'
SLOW = '[[routes]]\nname = "slow"\nscript = { command = ["/bin/sleep", "1000"], timeout = "1s" }\nretry = ["1h"]\n'
UNREACHABLE = '[[routes]]\nname = "nowhere"\nwebhook = { url = "https://127.0.0.1:9/" }\nretry = ["1h"]\n'
PLAIN_PORT = '[[routes]]\nname = "not-tls"\nwebhook = { url = "@SINK@" }\nretry = ["1h"]\n'

_CLOSE = re.compile(r"(?P<process>\d+) +close\((?P<descriptor>\d+)\) += (?P<result>-?\d+)")
_FAILED_LATER = re.compile(r"(?P<process>\d+) +<\.\.\. close resumed>\) += -1 ")
_EXEC = re.compile(r"(?P<process>\d+) +execve\(")

pytestmark = requires_strace


def closes(log: Path) -> tuple[int, list[str]]:
    """Return how many closes the service made, and the lines of those that failed."""
    lines = log.read_text(errors="replace").splitlines()
    scripts = {found["process"] for line in lines if (found := _EXEC.match(line))}
    own = [line for line in lines if line.split()[0] not in scripts]
    made = [found for line in own if (found := _CLOSE.match(line))]
    failed = [found.string for found in made if found["result"] != "0"]
    return len(made), failed + [line for line in own if _FAILED_LATER.match(line)]


async def attempts_of_all_routes(receiver: Receiver, routes: int) -> None:
    async def are_there() -> bool:
        return receiver.rows("SELECT count(*) FROM (SELECT DISTINCT delivery_id FROM attempts)") == [(TASKS * routes,)]

    await wait_until(are_there, seconds=60)


async def work(receiver: Receiver, routes: int) -> None:
    async with receiver.client() as client:
        for _ in range(TASKS):
            await submit_task(client)
        await attempts_of_all_routes(receiver, routes)


async def record_closes(receiver: Receiver, log: Path, work: Callable[[], Awaitable[None]]) -> None:
    """Trace a receiver while it does some work and then stops."""
    assert receiver.process is not None
    options = ["-e", "trace=close,execve", "-e", "signal=none"]
    with await asyncio.to_thread(attach, receiver.process.pid, options=options, log=log):
        await work()
        assert await receiver.stop() == 0


async def test_no_descriptor_is_closed_twice(tmp_path: Path) -> None:
    async with a_sink() as sink, a_kling() as kling, an_s3_server(tmp_path / "s3") as s3:
        archive = ARCHIVE + STORAGE.replace("@S3@", s3.url)
        scripts = a_script_route(tmp_path) + MISSING + SLOW
        webhooks = a_webhook_route(sink) + UNREACHABLE + PLAIN_PORT.replace("@SINK@", sink.url.replace("http", "https"))
        config = a_config(kling.url, more=archive + scripts + webhooks)
        async with a_receiver(tmp_path, config, environ=KEYS) as receiver:
            await record_closes(receiver, tmp_path / "strace", lambda: work(receiver, 6))

    count, failed = closes(tmp_path / "strace")
    assert count > TASKS * 10
    assert failed == []
