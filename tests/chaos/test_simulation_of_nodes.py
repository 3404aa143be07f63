"""Two and three nodes on PostgreSQL through minutes full of faults, in virtual time.

Nodes are killed, stopped for up to a minute and continued, and cut off from the database. Their clocks are minutes
apart. The state is checked as for one process. In addition, only the holder of a duty acts. ``NODE_MINUTES`` is how
long the faults last.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

import pytest
from chaos.invariants import assert_found, violations
from chaos.parameters import env_int, fresh_seed
from chaos.simulated_database import DatabaseLoop, Rows, use_simulated_clock
from chaos.simulation_of_nodes import NodesSimulation, regressions, slot_violations
from chaos.virtual_time import run_in_virtual_time
from harness.postgres import PostgresServer
from harness.soak_report import RecordCounts

from receiver.domain.duties import Tenure
from receiver.submission import slots

MINUTES = env_int("NODE_MINUTES", 1)
PER_RUN = 10
RUNS = 20

pytestmark = pytest.mark.timeout(0)

Sabotage = Callable[[pytest.MonkeyPatch], None]


def run_simulation(
    folder: Path,
    server: PostgresServer,
    seed: int,
    minutes: int,
    *,
    size: int = 3,
    until_settled: bool = True,
    until: str | None = None,
    sabotage: Sabotage = lambda _: None,
) -> tuple[list[str], Counter[str]]:
    """Run a simulation on a database of its own, and return the violations and the counts."""
    folder.mkdir()
    database = asyncio.run(server.create_database())
    clock_file = server.folder / f"{database}.clock"
    rows = Rows(server.url(database))
    use_simulated_clock(rows, clock_file)

    async def run(patch: pytest.MonkeyPatch) -> tuple[list[str], Counter[str]]:
        sabotage(patch)
        simulation = NodesSimulation(folder, seed, rows, server.url(database), size=size, patch=patch)
        with contextlib.closing(simulation.network):
            await simulation.run(minutes, until_settled=until_settled, until=until)
        faults = [*violations(simulation), *slot_violations(simulation), *regressions(simulation)]
        return faults, simulation.oracle.counts

    def make_loop() -> DatabaseLoop:
        return DatabaseLoop(clock_file, Random(seed))

    try:
        return run_in_virtual_time(run, make_loop=make_loop)
    finally:
        rows.close()
        clock_file.unlink()
        asyncio.run(server.drop_database(database))


@pytest.mark.soak("two and three nodes in virtual time", minutes=15)
def test_every_promise_holds_with_several_nodes(
    memory_folder: Path, postgres: PostgresServer, record_counts: RecordCounts
) -> None:
    seed, lived, total = fresh_seed(), 0, Counter[str]()
    record_counts(seed=seed)
    while lived < MINUTES:
        minutes, size = min(PER_RUN, MINUTES - lived), 3 - lived // PER_RUN % 2
        faults, counts = run_simulation(memory_folder / str(lived), postgres, seed, minutes, size=size)
        assert faults == [], f"SEED={seed} NODE_MINUTES={minutes} size={size}: " + "\n".join(faults[:10])
        total += counts
        lived, seed = lived + minutes, seed + 1
    record_counts(**{name.replace(" ", "_"): count for name, count in sorted(total.items())})


def trusts_ended_leases(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Tenure, "is_held", property(lambda _: True))


def ignores_slots(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(slots._Group, "has_capacity", lambda *_: True)


@pytest.mark.parametrize(
    ("breaks", "finding", "first"),
    [(trusts_ended_leases, "without the lease on", 1), (ignores_slots, "slots of", 1)],
)
def test_a_broken_rule_of_nodes_is_detected(
    memory_folder: Path, postgres: PostgresServer, breaks: Sabotage, finding: str, first: int
) -> None:
    """The run *first* is known to show the fault, so that the test need not search for it."""

    def run(seed: int) -> Sequence[str]:
        folder = memory_folder / str(seed)
        return run_simulation(folder, postgres, seed, 1, until_settled=False, until=finding, sabotage=breaks)[0]

    assert_found(finding, (run(seed) for seed in range(first, first + RUNS)))
