"""kill -9 at any moment, again and again, under load and with three webhooks and a script: nothing that was
acknowledged is lost, and all of it is delivered.

``KILLS`` is how many, ``SEED`` which moments; `make soak` asks for a thousand.
"""

import asyncio
from pathlib import Path
from random import Random

import pytest
from chaos.parameters import fresh_seed, number
from harness.load import CONCURRENCY, LIFE, THREE_AND_A_SCRIPT, Audit, Traffic, a_config_for_traffic
from harness.running_service import Receiver, a_receiver, a_sink
from harness.soak_report import Tell
from harness.support import until

KILLS = number("KILLS", 30)

PER_SECOND = 100

EARLY = 0.2
"""The share of kills that do not wait until the receiver is ready."""


@pytest.mark.soak("kill -9 under load", minutes=31)
@pytest.mark.timeout(120 + 10 * KILLS)
async def test_nothing_acknowledged_is_lost_however_often_the_process_is_killed(tmp_path: Path, tell: Tell) -> None:
    seed = fresh_seed()
    rng, up = Random(seed), 0.0
    tell(seed=seed, kills=KILLS)
    async with (
        a_sink() as sink,
        a_receiver(tmp_path, a_config_for_traffic(sink, THREE_AND_A_SCRIPT, tmp_path), environ={LIFE: "0"}) as receiver,
    ):
        traffic, stop = Traffic(receiver, per_second=PER_SECOND), asyncio.Event()
        calling = asyncio.create_task(traffic.run(stop))

        for life in range(1, KILLS + 1):
            up += await _live_a_while(rng)
            receiver.kill()
            receiver.environ[LIFE] = str(life)
            receiver.spawn()
            if rng.random() > EARLY or life == KILLS:
                await receiver.ready()
        stop.set()
        await calling
        waiting = _waiting(receiver)
        await until(lambda: _waiting(receiver) == 0, within=60)
        audit = Audit.of(traffic, sink, THREE_AND_A_SCRIPT, tmp_path)

        tell(
            callbacks_acknowledged=audit.promised,
            of_them_lost=audit.lost,
            a_second=round(audit.promised / up),
            cut_off_unanswered=traffic.broken,
            deliveries_of_three_webhooks_and_a_script=audit.deliveries,
            of_them_waiting_after_the_last_kill=waiting,
            of_them_undelivered=audit.undelivered,
            sent_again_after_a_kill_under_the_same_id=audit.again.total(),
            most_of_them_after_one_kill=max(audit.again.values(), default=0),
            sent_twice_without_a_kill=audit.twice_in_one_life,
            answers=traffic.statuses,
        )
        assert (audit.lost, audit.undelivered, audit.unknown, audit.twice_in_one_life) == (0, 0, 0, 0)
        assert max(audit.again.values(), default=0) <= CONCURRENCY
        assert set(traffic.statuses) == {200, 201}
        assert receiver.rows("PRAGMA integrity_check") == [("ok",)]
        assert await receiver.stop() == 0


async def _live_a_while(rng: Random) -> float:
    lasts = rng.uniform(0.0, 1.2)
    await asyncio.sleep(lasts)
    return lasts


def _waiting(receiver: Receiver) -> int:
    [(count,)] = receiver.rows("SELECT count(*) FROM deliveries WHERE status <> 'delivered'")
    return int(count)
