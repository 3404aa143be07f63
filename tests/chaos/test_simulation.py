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
from chaos.invariants import violations
from chaos.parameters import env_int, fresh_seed
from chaos.simulation import Simulation
from chaos.virtual_time import VirtualLoop
from harness.soak_report import RecordCounts
from harness.support import configure_plain_logs

HOURS = env_int("HOURS", 1000)
PER_RUN = 1000

pytestmark = pytest.mark.timeout(0)


def run_simulation(
    folder: Path,
    seed: int,
    hours: int,
    *,
    jumps: bool = False,
    until_settled: bool = True,
    sabotage: Callable[[pytest.MonkeyPatch], None] = lambda _: None,
) -> Simulation:
    """Live through so many hours in a world of its own, where *breaks* may have broken something."""

    async def run() -> Simulation:
        sabotage(patch)
        simulation = Simulation(folder, seed, patch=patch, jumps=jumps)
        with contextlib.closing(simulation.network):
            await simulation.run(hours, until_settled=until_settled)
        return simulation

    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch, asyncio.Runner(loop_factory=VirtualLoop) as runner:
        try:
            return runner.run(run())
        finally:
            configure_plain_logs()


@pytest.mark.soak("simulation in virtual time", minutes=15)
@pytest.mark.parametrize("jumps", [False, True], ids=["", "with a clock that jumps a day"])
def test_everything_ends_as_it_should_whatever_happens(
    memory_folder: Path, record_counts: RecordCounts, jumps: bool
) -> None:
    seed, lived, counts = fresh_seed(), 0, Counter[str]()
    record_counts(seed=seed)
    while lived < HOURS:
        hours = min(PER_RUN, HOURS - lived)
        simulation = run_simulation(memory_folder / str(lived), seed, hours, jumps=jumps)
        faults = violations(simulation)
        assert faults == [], f"SEED={seed} HOURS={hours}: " + "\n".join(faults[:10])
        counts += simulation.oracle.counts
        lived, seed = lived + hours, seed + 1
    record_counts(**{name.replace(" ", "_"): count for name, count in sorted(counts.items())})


def test_the_same_seed_lives_the_same_life(memory_folder: Path) -> None:
    first, again = (
        run_simulation(memory_folder / name, 7, 60, jumps=True, until_settled=False) for name in ("first", "again")
    )

    assert first.oracle.digest == again.oracle.digest
