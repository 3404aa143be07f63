"""kill -9 at random moments, under load, with three webhooks, two scripts and the archive.

Nothing acknowledged is lost, all is delivered, and every archived file is the one that its server sent.
``KILLS`` is the number of kills, ``SEED`` chooses their moments; `make soak` uses 1,000.
"""

import asyncio
from pathlib import Path
from random import Random

import pytest
from chaos.parameters import env_int, fresh_seed
from harness.load import (
    CONCURRENCY,
    START_NUMBER,
    THREE_AND_TWO_SCRIPTS,
    LoadGenerator,
    LoadReport,
    a_load_config,
    wait_until_delivered,
)
from harness.result_files import a_file_server, archived_files
from harness.running_service import Receiver, a_receiver, a_sink
from harness.soak_report import RecordCounts

KILLS = env_int("KILLS", 30)

PER_SECOND = 100
ARCHIVE = '[archive]\ndir = "results"\n[network]\nallow = ["127.0.0.0/8"]\n'

EARLY_KILLS = 0.2
"""The share of kills that do not wait until the receiver is ready."""


@pytest.mark.soak("kill -9 under load", minutes=31)
@pytest.mark.timeout(120 + 40 * KILLS)
async def test_kills_lose_nothing_acknowledged(tmp_path: Path, record_counts: RecordCounts) -> None:
    seed = fresh_seed()
    rng, up = Random(seed), 0.0
    record_counts(seed=seed, kills=KILLS)
    async with (
        a_file_server() as files,
        a_sink() as sink,
        a_receiver(
            tmp_path, ARCHIVE + a_load_config(sink, THREE_AND_TWO_SCRIPTS, tmp_path), environ={START_NUMBER: "0"}
        ) as receiver,
    ):
        load, stop = LoadGenerator(receiver, per_second=PER_SECOND, file_server=files), asyncio.Event()
        calling = asyncio.create_task(load.run(stop))

        for life in range(1, KILLS + 1):
            up += await _run_briefly(rng)
            receiver.kill()
            receiver.environ[START_NUMBER] = str(life)
            receiver.spawn()
            if rng.random() > EARLY_KILLS or life == KILLS:
                await receiver.wait_until_ready()
        stop.set()
        await calling
        waiting = _undelivered_count(receiver)
        await wait_until_delivered(receiver)
        report = LoadReport.from_run(load, sink, THREE_AND_TWO_SCRIPTS, tmp_path)
        file_count, wrong_files = archived_files(receiver)

        record_counts(
            callbacks_acknowledged=report.acknowledged,
            of_them_lost=report.lost,
            a_second=round(report.acknowledged / up),
            cut_off_unanswered=load.failed_requests,
            deliveries_of_three_webhooks_and_two_scripts=report.deliveries,
            of_them_waiting_after_the_last_kill=waiting,
            of_them_undelivered=report.undelivered,
            sent_again_after_a_kill_under_the_same_id=report.redeliveries.total(),
            most_of_them_after_one_kill=max(report.redeliveries.values(), default=0),
            sent_twice_without_a_kill=report.duplicates_within_run,
            files_archived=file_count,
            of_them_other_than_their_source=len(wrong_files),
            answers=load.statuses,
        )
        assert (report.lost, report.undelivered, report.unknown, report.duplicates_within_run) == (0, 0, 0, 0)
        assert (file_count > 0, wrong_files, sorted((tmp_path / "results").rglob("*.part"))) == (True, [], [])
        assert max(report.redeliveries.values(), default=0) <= CONCURRENCY
        assert set(load.statuses) == {200, 201}
        assert receiver.rows("PRAGMA integrity_check") == [("ok",)]
        assert await receiver.stop() == 0


async def _run_briefly(rng: Random) -> float:
    lasts = rng.uniform(0.0, 1.2)
    await asyncio.sleep(lasts)
    return lasts


def _undelivered_count(receiver: Receiver) -> int:
    [(count,)] = receiver.rows("SELECT count(*) FROM deliveries WHERE status <> 'delivered'")
    return int(count)
