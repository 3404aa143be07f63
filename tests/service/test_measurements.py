"""The lag of the event loop, and the stored total of missed callbacks."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from harness.sqlite_template import open_store

from receiver.domain.clock import SystemClock
from receiver.domain.metrics import Metrics
from receiver.service import measurements
from receiver.service.measurements import LoopLag, MissedCallbacks
from receiver.store.interfaces import Total
from receiver.store.sqlite.store import SqliteStore


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    opened = await open_store(tmp_path / "receiver.db")
    yield opened
    await opened.aclose()


async def missed(store: SqliteStore) -> float | None:
    return (await store.totals.read())[Total.CALLBACKS_MISSED].get("")


async def test_the_stored_total_grows_with_missed_callbacks_and_never_falls(store: SqliteStore) -> None:
    counts = iter([0, 2, 1, 2, 3])
    measuring = MissedCallbacks(store.totals, count=lambda: next(counts), clock=SystemClock())

    seen = []
    for _ in range(5):
        await measuring.store()
        seen.append(await missed(store))

    assert seen == [0, 2, 2, 2, 3]


async def test_a_new_process_continues_the_total_of_earlier_ones(store: SqliteStore) -> None:
    await store.totals.raise_to(Total.CALLBACKS_MISSED, 7)
    measuring = MissedCallbacks(store.totals, count=lambda: 2, clock=SystemClock())

    await measuring.store()

    assert await missed(store) == 9


async def test_the_total_continues_when_the_counting_node_changes(
    store: SqliteStore,
) -> None:
    counts = [0, 0]
    nodes = [
        MissedCallbacks(store.totals, count=lambda number=number: counts[number], clock=SystemClock())  # type: ignore[misc]  # binds this node's number
        for number in range(2)
    ]

    for number, missed_there, total in ((0, 3, 3), (1, 2, 5), (0, 4, 9)):
        stop = asyncio.Event()
        counts[number] = 0  # a tenure begins anew
        counting = asyncio.create_task(nodes[number].run(stop))
        await asyncio.sleep(0.05)
        counts[number] = missed_there
        stop.set()
        await counting

        assert await missed(store) == total


async def test_a_measurement_is_stored_once_the_store_can_write_again(tmp_path: Path) -> None:
    free = 0
    store = await open_store(tmp_path / "receiver.db", free=lambda _: free)
    measuring = MissedCallbacks(store.totals, count=lambda: 4, clock=SystemClock())
    await measuring.store()
    before = await missed(store)

    free = 10**12
    await measuring.store()
    after = await missed(store)
    await store.aclose()

    assert (before, after) == (None, 4)


async def test_a_blocked_loop_shows_as_lag(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measurements, "INTERVAL", measurements.INTERVAL / 50)
    metrics, stop = Metrics(), asyncio.Event()
    measuring = LoopLag(metrics, clock=SystemClock())

    running = asyncio.create_task(measuring.run(stop))
    await asyncio.sleep(0)
    time.sleep(0.2)  # noqa: ASYNC251 -- this is the blocked loop
    await asyncio.sleep(0.05)
    stop.set()
    await running

    assert metrics.loop_lag_seconds.values[()].sum >= 0.15
