"""Thousands of hours of faults in a few seconds: the real service, virtual time, seeded randomness.

Clients submit. Kling refuses and loses answers. Pushes come twice, late, forged or never. Destinations are down for
hours, the disk fills, and the process is killed and restarted. The state is checked at each step and at the end:
acknowledged pushes are stored, each event reaches each matching route, and Kling created one task per intent.
"""

import contextlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from chaos.invariants import violations
from chaos.parameters import env_int, fresh_seed
from chaos.simulation import Simulation
from chaos.virtual_time import run_in_virtual_time
from harness.soak_report import RecordCounts

HOURS = env_int("HOURS", 500)
PER_RUN = 1000

pytestmark = pytest.mark.timeout(0)


def run_simulation(
    folder: Path,
    seed: int,
    hours: int,
    *,
    jumps: bool = False,
    one_shots: bool = False,
    until_settled: bool = True,
    until: str | None = None,
    sabotage: Callable[[pytest.MonkeyPatch], None] = lambda _: None,
) -> Simulation:
    """Run a simulation of this many hours, or *until* such a violation; *sabotage* may break the service first."""

    async def run(patch: pytest.MonkeyPatch) -> Simulation:
        sabotage(patch)
        simulation = Simulation(folder, seed, patch=patch, jumps=jumps, one_shots=one_shots)
        with contextlib.closing(simulation.network):
            await simulation.run(hours, until_settled=until_settled, until=until)
        return simulation

    folder.mkdir()
    return run_in_virtual_time(run)


@pytest.mark.soak("simulation in virtual time", minutes=15)
@pytest.mark.parametrize("jumps", [False, True], ids=["", "with a clock that jumps a day"])
def test_every_promise_holds_through_all_faults(memory_folder: Path, record_counts: RecordCounts, jumps: bool) -> None:
    seed, lived, counts = fresh_seed(), 0, Counter[str]()
    record_counts(seed=seed)
    while lived < HOURS:
        hours = min(PER_RUN, HOURS - lived)
        simulation = run_simulation(memory_folder / str(lived), seed, hours, jumps=jumps, one_shots=True)
        faults = violations(simulation)
        assert faults == [], f"SEED={seed} HOURS={hours}: " + "\n".join(faults[:10])
        counts += simulation.oracle.counts
        lived, seed = lived + hours, seed + 1
    record_counts(**{name.replace(" ", "_"): count for name, count in sorted(counts.items())})


def test_the_same_seed_gives_the_same_run(memory_folder: Path) -> None:
    first, again = (
        run_simulation(memory_folder / name, 7, 60, jumps=True, until_settled=False) for name in ("first", "again")
    )

    assert first.oracle.digest == again.oracle.digest
