"""Restarts under load with sockets held as systemd does: clients notice only a delay.

``RESTARTS`` is the number of restarts, ``SEED`` chooses their moments.
"""

import asyncio
from pathlib import Path
from random import Random

import pytest
from chaos.parameters import env_int, fresh_seed
from harness.held_sockets import SocketHoldingReceiver
from harness.load import START_NUMBER, LoadGenerator, LoadReport, a_load_config, wait_until_delivered
from harness.running_service import a_sink, run_receiver
from harness.soak_report import RecordCounts
from harness.waiting import wait_until

RESTARTS = env_int("RESTARTS", 4)


@pytest.mark.soak("restarted under load, sockets held", minutes=8)
@pytest.mark.timeout(120 + 40 * RESTARTS)
@pytest.mark.parametrize("keeps", [True, False], ids=["kept-alive", "a connection each"])
async def test_restarts_with_held_sockets_refuse_no_callback(
    tmp_path: Path, record_counts: RecordCounts, keeps: bool
) -> None:
    seed = fresh_seed()
    rng = Random(seed)
    record_counts(seed=seed, restarts=RESTARTS)
    async with a_sink() as sink:
        receiver = SocketHoldingReceiver(tmp_path, a_load_config(sink), environ={START_NUMBER: "0"})
        async with run_receiver(receiver):
            load, stop = LoadGenerator(receiver, keep_alive=keeps), asyncio.Event()
            calling, up = asyncio.create_task(load.run(stop)), 0.0

            for life in range(1, RESTARTS + 1):
                up += await _receive_some(load, rng)
                assert await receiver.stop() == 0
                receiver.environ[START_NUMBER] = str(life)
                await receiver.start()
            stop.set()
            await calling
            await wait_until_delivered(receiver)
            assert await receiver.stop() == 0
            receiver.close_sockets()

        report = LoadReport.from_run(load, sink)
        record_counts(
            callbacks_acknowledged=report.acknowledged,
            a_second=round(report.acknowledged / up),
            refused=load.refused_connections,
            cut_off_unanswered=load.failed_requests,
            of_them_lost=report.lost,
            events_undelivered=report.undelivered,
            sent_twice=report.duplicates_within_run + report.redeliveries.total(),
            answers=load.statuses,
        )
        assert (load.refused_connections, set(load.statuses)) == (0, {200, 201})
        assert load.failed_requests <= (
            RESTARTS * 2 * load.client_count if keeps else 0
        )  # an idle connection is closed
        assert (report.lost, report.undelivered, report.unknown) == (0, 0, 0)
        assert (report.duplicates_within_run, report.redeliveries.total()) == (0, 0)


async def _receive_some(load: LoadGenerator, rng: Random) -> float:
    """Wait for some hundred acknowledged callbacks. Return how long that took."""
    began = asyncio.get_running_loop().time()
    enough = len(load.acknowledged) + rng.randrange(100, 300)
    await wait_until(lambda: len(load.acknowledged) >= enough, seconds=60)
    return asyncio.get_running_loop().time() - began
