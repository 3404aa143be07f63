"""Thousands of hours of bad weather in a few seconds: the real parts of the service, virtual time, seeded chance.

Clients ask, Kling refuses and loses answers, pushes come twice, late, forged or never, destinations are down for
hours, the disk fills, the process is killed and started again. At each step and at the end it is compared with what
everybody else knows: what was acknowledged is kept, each event reaches each route that wants it, and Kling has made
one task for each that was asked for.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from chaos.invariants import broken
from chaos.parameters import fresh_seed, number
from chaos.simulation import World
from chaos.virtual_time import VirtualLoop
from harness.soak_report import Tell
from harness.support import log_plainly

HOURS = number("HOURS", 1000)
PER_RUN = 1000

pytestmark = pytest.mark.timeout(0)


def live(
    folder: Path,
    seed: int,
    hours: int,
    *,
    jumps: bool = False,
    to_the_end: bool = True,
    breaks: Callable[[pytest.MonkeyPatch], None] = lambda _: None,
) -> World:
    """Live through so many hours in a world of its own, where *breaks* may have broken something."""

    async def run() -> World:
        breaks(patch)
        world = World(folder, seed, patch=patch, jumps=jumps)
        with contextlib.closing(world.internet):
            await world.live(hours, to_the_end=to_the_end)
        return world

    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch, asyncio.Runner(loop_factory=VirtualLoop) as runner:
        try:
            return runner.run(run())
        finally:
            log_plainly()


@pytest.mark.soak("simulation in virtual time", minutes=15)
@pytest.mark.parametrize("jumps", [False, True], ids=["", "with a clock that jumps a day"])
def test_everything_ends_as_it_should_whatever_happens(memory: Path, tell: Tell, jumps: bool) -> None:
    seed, lived, counts = fresh_seed(), 0, Counter[str]()
    tell(seed=seed)
    while lived < HOURS:
        hours = min(PER_RUN, HOURS - lived)
        world = live(memory / str(lived), seed, hours, jumps=jumps)
        faults = broken(world)
        assert faults == [], f"SEED={seed} HOURS={hours}: " + "\n".join(faults[:10])
        counts += world.witness.counts
        lived, seed = lived + hours, seed + 1
    tell(**{name.replace(" ", "_"): count for name, count in sorted(counts.items())})


def test_the_same_seed_lives_the_same_life(memory: Path) -> None:
    first, again = (live(memory / name, 7, 60, jumps=True, to_the_end=False) for name in ("first", "again"))

    assert first.witness.digest == again.witness.digest
