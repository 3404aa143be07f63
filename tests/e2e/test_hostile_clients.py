"""Hostile clients at the public listener stop no good callback, and leave nothing behind."""

import asyncio
import os
from pathlib import Path
from random import Random
from time import perf_counter
from urllib.parse import urlsplit

import pytest
from chaos.parameters import env_int, fresh_seed
from harness.hostile_clients import HostileClients
from harness.raw_http import http_request
from harness.running_service import Receiver, a_config, a_push_body, a_receiver, create_callback_url
from harness.soak_report import RecordCounts
from harness.waiting import wait_until

from receiver.settings import Address

HOSTILE = env_int("HOSTILE", 400)
CALLBACKS_PER_TASK = 40  # fewer than are kept of one task
MAX_MORE_MEMORY = 96  # MiB; the allocator keeps some of what was freed
CONFIG = a_config("http://127.0.0.1:9", more='[callbacks]\nverify = "never"\n')


@pytest.mark.soak("hostile clients at the public listener", minutes=10)
async def test_hostile_clients_stop_no_good_callback(tmp_path: Path, record_counts: RecordCounts) -> None:
    seed = fresh_seed()
    async with a_receiver(tmp_path, CONFIG) as receiver:
        async with receiver.client() as client:
            _, hostile_url = await create_callback_url(client)
        parts = urlsplit(receiver.public)
        assert parts.hostname is not None
        assert parts.port is not None
        address = Address(parts.hostname, parts.port)
        hostile = HostileClients(address, urlsplit(hostile_url).path, Random(seed))
        calm = await send_callbacks(receiver, tasks=1, done=asyncio.Event())
        files, memory = open_files(receiver), resident_mib(receiver)

        done = asyncio.Event()
        good = asyncio.create_task(send_callbacks(receiver, tasks=HOSTILE // CALLBACKS_PER_TASK, done=done))
        await hostile.attack(HOSTILE)
        done.set()
        times = await good
        await hostile.leave()
        await wait_until(lambda: open_files(receiver) <= files, seconds=40)

        stored = receiver.rows(
            "SELECT count(*), count(DISTINCT p.body) FROM whole_pushes p JOIN tasks t ON t.id = p.task_id "
            "WHERE t.label = 'good'"
        )
        record_counts(
            seed=seed,
            misuses=dict(sorted(hostile.sent.items())),
            good_callbacks=len(times),
            slowest_calm_ms=round(max(calm) * 1000),
            slowest_under_attack_ms=round(max(times) * 1000),
            more_memory_mib=resident_mib(receiver) - memory,
        )
        assert stored == [(len(calm) + len(times),) * 2]
        assert resident_mib(receiver) - memory < MAX_MORE_MEMORY


async def send_callbacks(receiver: Receiver, *, tasks: int, done: asyncio.Event) -> list[float]:
    """Send different callbacks to *tasks* fresh URLs; to at least one, and to no more once *done* is set.

    Returns the seconds that each took.
    """
    times: list[float] = []
    for _ in range(max(1, tasks)):
        async with receiver.client() as client:
            task, url = await create_callback_url(client, label="good")
        for number in range(CALLBACKS_PER_TASK):
            body = a_push_body("processing", task_id=task["id"], n=number)
            started = perf_counter()
            answer = await http_request("POST", url, body)
            times.append(perf_counter() - started)
            assert answer.status == 200
        if done.is_set():
            break
    return times


def open_files(receiver: Receiver) -> int:
    assert receiver.process is not None
    return len(list(Path(f"/proc/{receiver.process.pid}/fd").iterdir()))


def resident_mib(receiver: Receiver) -> int:
    assert receiver.process is not None
    pages = int(Path(f"/proc/{receiver.process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 2**20
