"""Control tests of the simulation: each promise is broken once, and the simulation must detect it."""

import sqlite3
from collections.abc import Callable, Sequence
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from chaos import clients
from chaos.invariants import assert_found, violations
from chaos.test_simulation import run_simulation
from msgspec.structs import replace

from receiver.delivery import dispatcher
from receiver.delivery.dispatcher import Dispatcher
from receiver.delivery.lane import Lane
from receiver.delivery.route_states import RouteStates
from receiver.domain.audit import AuditEntry
from receiver.domain.model import EndReason, HeldBy, Push, RouteState, Task, TaskState
from receiver.domain.replays import Replay
from receiver.net.ssrf_guard import OperatorGuard, PublicGuard
from receiver.store.interfaces import ById, Change, RecoveredClaims
from receiver.store.sqlite import writer
from receiver.store.sqlite.deliveries import SqliteDeliveryQueue
from receiver.store.sqlite.replays import SqliteReplayStore
from receiver.submission.recorder import CreateRecorder
from receiver.submission.recovery import CreateRecovery
from receiver.tasks import lifecycle, submit_lifecycle
from receiver.tasks.batches import BatchService

RUNS, HOURS = 20, 60
FINAL_FINDINGS = ("is not finished", "was created 2 times", "a wrong event", "was cancelled and is", "replay")
"""Violations that only the end of a run shows."""

Patch = pytest.MonkeyPatch


class RollbackConnection:
    """A connection that turns each COMMIT into a ROLLBACK."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, statement: str, *given: Any) -> sqlite3.Cursor:
        return self._connection.execute("ROLLBACK" if statement == "COMMIT" else statement, *given)


def rolls_back_commits(patch: Patch) -> None:
    turns, commit = count(1), writer._commit

    def unsafe(connection: Any, *given: Any, **named: Any) -> None:
        chosen: Any = connection if next(turns) % 10 else RollbackConnection(connection)
        commit(chosen, *given, **named)

    patch.setattr(writer, "_commit", unsafe)


def keeps_stale_claims(patch: Patch) -> None:
    async def none(_: SqliteDeliveryQueue, **__: Any) -> RecoveredClaims:
        return RecoveredClaims(released=0, suspects={})

    patch.setattr(SqliteDeliveryQueue, "release_all", none)
    patch.setattr(dispatcher, "LEASE_MARGIN", timedelta(days=3650))


def lets_state_regress(patch: Patch) -> None:
    patch.setitem(lifecycle._RANK, TaskState.SUBMITTED, 9)


def claims_twice(patch: Patch) -> None:
    class Forgetful(dict[str, str]):
        def __contains__(self, _: object) -> bool:
            return False

    make = Dispatcher.__init__

    def forgetful(self: Dispatcher, *args: Any, **kwargs: Any) -> None:
        make(self, *args, **kwargs)
        self._claims = Forgetful()

    patch.setattr(Dispatcher, "__init__", forgetful)
    patch.setattr(dispatcher, "LEASE_MARGIN", timedelta(seconds=-15))


def trusts_every_callback(patch: Patch) -> None:
    patch.setattr(lifecycle, "_is_trusted", lambda *_: True)


def keeps_forged_ends(patch: Patch) -> None:
    patch.setattr(clients, "BLIND_SHARE", 1.0)  # only a task that cannot be polled has an unverified end
    patch.setattr(clients, "FORGED_SHARE", 1.0)
    patch.setattr(lifecycle, "_replaces_end", lambda *_: False)


def disables_public_guard(patch: Patch) -> None:
    patch.setattr(PublicGuard, "check", lambda *_: None)


def disables_operator_guard(patch: Patch) -> None:
    patch.setattr(OperatorGuard, "check", lambda *_: None)


def skips_lookup_before_resubmit(patch: Patch) -> None:
    async def denied(*_: Any) -> bool:
        return False

    async def believed(*_: Any) -> bool:
        return True

    patch.setattr(CreateRecovery, "_find_and_bind", denied)
    patch.setattr(CreateRecovery, "_trusts_denial", believed)


def forgets_batches(patch: Patch) -> None:
    async def nothing(_: BatchService) -> None:
        return None

    patch.setattr(BatchService, "_finish_complete", nothing)


def ignores_operator_hold(patch: Patch) -> None:
    def of(self: RouteStates, route: str) -> RouteState:
        state = self._states.get(route) or RouteState(name=route)
        return replace(state, held_by=None, held_at=None) if state.held_by is HeldBy.OPERATOR else state

    patch.setattr(RouteStates, "get", of)


def ignores_concurrency(patch: Patch) -> None:
    patch.setattr(Lane, "concurrency", property(lambda _: 50, lambda *_: None))


def cancels_in_flight_tasks(patch: Patch) -> None:
    async def cancelled(self: CreateRecorder, task_id: str, action: AuditEntry) -> Task | None:
        def judge(held: Task, _: Sequence[Push]) -> Change:
            rejected = submit_lifecycle.reject(held, "cancelled.", now=action.at, end_reason=EndReason.CANCELLED)
            return Change(task=held if held.state.is_final else rejected)

        change = await self._task_store.apply(ById(id=task_id), judge)
        return None if change is None else change.task

    patch.setattr(CreateRecorder, "cancel", cancelled)


def forgets_replays(patch: Patch) -> None:
    async def none(_: SqliteReplayStore) -> Sequence[Replay]:
        return ()

    patch.setattr(SqliteReplayStore, "running", none)


@pytest.mark.timeout(0)
@pytest.mark.parametrize(
    ("breaks", "finding", "first"),
    [
        (rolls_back_commits, "not stored", 1),
        (keeps_stale_claims, "is not finished", 3),
        (lets_state_regress, "moves back from", 15),
        (claims_twice, "is sent", 1),
        (trusts_every_callback, "unverified event to", 1),
        (keeps_forged_ends, "by a signed push, which is lost", 2),
        (disables_public_guard, "was dialled", 2),
        (disables_operator_guard, "was dialled", 1),
        (skips_lookup_before_resubmit, "was created 2 times", 3),
        (forgets_batches, "a wrong event", 1),
        (ignores_operator_hold, "which the operator holds", 4),
        (ignores_concurrency, "deliveries at once", 1),
        (cancels_in_flight_tasks, "was cancelled and is", 9),
        (forgets_replays, "replay", 1),
    ],
)
def test_a_broken_promise_is_detected(
    memory_folder: Path, breaks: Callable[[Patch], None], finding: str, first: int
) -> None:
    """The run *first* is known to show the fault, so that the test need not search for it."""

    def run(seed: int) -> Sequence[str]:
        until_settled = finding in FINAL_FINDINGS
        folder = memory_folder / str(seed)
        return violations(
            run_simulation(folder, seed, HOURS, until_settled=until_settled, until=finding, sabotage=breaks)
        )

    assert_found(finding, (run(seed) for seed in range(first, first + RUNS)))
