"""kill -9 at any moment, again and again: nothing that was acknowledged is lost, and all of it is delivered.

``KILLS`` is how many, ``SEED`` which moments; `make soak` asks for a thousand.
"""

import asyncio
import os
from pathlib import Path
from random import Random

import pytest
from processes import Receiver, a_receiver, a_sink
from support import until
from traffic import CONCURRENCY, LIFE, Audit, Traffic, a_config_for_traffic

KILLS = int(os.environ.get("KILLS", "30"))
SEED = int(os.environ.get("SEED", "0")) or int.from_bytes(os.urandom(4))

EARLY = 0.2
"""The share of kills that do not wait until the receiver is ready."""


@pytest.mark.timeout(120 + 10 * KILLS)
async def test_nothing_acknowledged_is_lost_however_often_the_process_is_killed(tmp_path: Path) -> None:
    rng, up = Random(SEED), 0.0
    async with (
        a_sink() as sink,
        a_receiver(tmp_path, a_config_for_traffic(sink), environ={LIFE: "0"}) as receiver,
    ):
        traffic, stop = Traffic(receiver), asyncio.Event()
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
        await until(lambda: _is_all_delivered(receiver), within=60)
        audit = Audit.of(traffic, sink)

        print(  # noqa: T201 - the counts are the proof; pytest shows them with -rP
            f"{KILLS} kills, seed {SEED}: {audit.promised} callbacks acknowledged at {audit.promised / up:.0f}/s, "
            f"{traffic.broken} cut off unanswered, answers {dict(traffic.statuses)}; {audit.kept} kept, "
            f"{audit.lost} lost; {audit.events} events, {audit.undelivered} undelivered, "
            f"{audit.again.total()} sent again after a kill, {audit.twice_in_one_life} twice without one"
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


def _is_all_delivered(receiver: Receiver) -> bool:
    return receiver.rows("SELECT count(*) FROM deliveries WHERE status <> 'delivered'") == [(0,)]
