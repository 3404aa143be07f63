"""The simulation is worth something only if it finds things out: each promise is broken once, and must be missed."""

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from chaos.invariants import broken
from chaos.test_simulation import live

from receiver.delivery import dispatcher
from receiver.delivery.dispatcher import Dispatcher
from receiver.delivery.route_states import Holds
from receiver.domain.model import HeldBy, Push, RouteState, Task, TaskState
from receiver.domain.replays import Action, Replay
from receiver.net.ssrf_guard import OperatorGuard, PublicGuard
from receiver.store.interfaces import ById, Change
from receiver.store.sqlite import writer
from receiver.store.sqlite.replays import ReplayStore
from receiver.store.sqlite.store import SqliteStore
from receiver.submission.recorder import Outcomes
from receiver.submission.recovery import Recovery
from receiver.tasks import lifecycle
from receiver.tasks.batches import Gatherer

LIVES, HOURS = 20, 60
AT_THE_END = ("never ends", "was made 2 times", "was told of otherwise", "was cancelled, and is", "replay")
"""What can only be said when all is over."""

Patch = pytest.MonkeyPatch


class Uncommitting:
    """A connection that takes each COMMIT for its contrary."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, statement: str, *given: Any) -> sqlite3.Cursor:
        return self._connection.execute("ROLLBACK" if statement == "COMMIT" else statement, *given)


def forgets_commits(patch: Patch) -> None:
    turns, write = count(1), writer._write_and_commit

    def unsafe(connection: Any, *given: Any, begun: bool) -> None:
        write(connection if next(turns) % 10 else Uncommitting(connection), *given, begun=begun)  # type: ignore[arg-type]  # it passes for one

    patch.setattr(writer, "_write_and_commit", unsafe)


def forgets_who_died(patch: Patch) -> None:
    async def none(_: SqliteStore, **__: Any) -> int:
        return 0

    patch.setattr(SqliteStore, "release_all", none)
    patch.setattr(dispatcher, "LEASE_MARGIN", timedelta(days=3650))


def lets_a_state_fall(patch: Patch) -> None:
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


def believes_everybody(patch: Patch) -> None:
    patch.setattr(lifecycle, "_is_trusted", lambda *_: True)


def dials_for_strangers(patch: Patch) -> None:
    patch.setattr(PublicGuard, "check", lambda *_: None)


def dials_for_the_operator(patch: Patch) -> None:
    patch.setattr(OperatorGuard, "check", lambda *_: None)


def asks_nobody_before_it_sends_again(patch: Patch) -> None:
    async def denied(*_: Any) -> bool:
        return False

    async def believed(*_: Any) -> bool:
        return True

    patch.setattr(Recovery, "_found", denied)
    patch.setattr(Recovery, "_is_believed", believed)


def forgets_batches(patch: Patch) -> None:
    async def nothing(_: Gatherer) -> None:
        return None

    patch.setattr(Gatherer, "_round", nothing)


def does_not_heed_a_persons_hold(patch: Patch) -> None:
    def of(self: Holds, route: str) -> RouteState:
        state = self._states.get(route) or RouteState(name=route)
        return replace(state, held_by=None, held_at=None) if state.held_by is HeldBy.OPERATOR else state

    patch.setattr(Holds, "of", of)


def cancels_what_is_under_way(patch: Patch) -> None:
    async def cancelled(self: Outcomes, task_id: str, action: Action) -> Task | None:
        def judge(held: Task, _: Sequence[Push]) -> Change:
            rejected = lifecycle.reject(held, f"{lifecycle.CANCELLED}.", now=action.at)
            return Change(task=held if held.state.is_final else rejected)

        change = await self._intake.apply(ById(id=task_id), judge)
        return None if change is None else change.task

    patch.setattr(Outcomes, "cancelled", cancelled)


def forgets_replays(patch: Patch) -> None:
    async def none(_: ReplayStore) -> Sequence[Replay]:
        return ()

    patch.setattr(ReplayStore, "running", none)


@pytest.mark.timeout(0)
@pytest.mark.parametrize(
    ("breaks", "finding", "first"),
    [
        (forgets_commits, "not kept", 1),
        (forgets_who_died, "never ends", 1),
        (lets_a_state_fall, "falls from", 15),
        (claims_twice, "goes out", 1),
        (believes_everybody, "unverified to", 1),
        (dials_for_strangers, "was dialled", 2),
        (dials_for_the_operator, "was dialled", 1),
        (asks_nobody_before_it_sends_again, "was made 2 times", 1),
        (forgets_batches, "was told of otherwise", 1),
        (does_not_heed_a_persons_hold, "which a person holds", 6),
        (cancels_what_is_under_way, "was cancelled, and is", 3),
        (forgets_replays, "replay", 1),
    ],
)
def test_a_service_that_breaks_its_promise_is_found_out(
    memory: Path, breaks: Callable[[Patch], None], finding: str, first: int
) -> None:
    """Life *first* is one in which it showed when this was written, so that it need not be searched for each time."""
    for seed in range(first, first + LIVES):
        world = live(memory / str(seed), seed, HOURS, to_the_end=finding in AT_THE_END, breaks=breaks)
        if any(finding in fault for fault in broken(world)):
            return

    pytest.fail(f"nothing was found in {LIVES} lives of {HOURS} hours")
