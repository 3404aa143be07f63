"""What `tasks watch` shows: running tasks first, each change, and an outage while it lasts."""

from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
from harness.fake_api import TOKEN, FakeService, Json, make_task

from receiver.cli import main
from receiver.cli.watch_table import TaskFilter, TaskSnapshot, task_snapshots
from receiver.client import SyncClient, event_signal
from receiver.domain.errors import ReceiverError, RequestFailed

LIMIT = 3


@pytest.fixture(autouse=True)
def poll_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_signal, "_CONNECTED_POLL_SECONDS", 0.02)


class Tasks:
    """The tasks of the service, oldest first. Lists them as the API does."""

    def __init__(self, service: FakeService, **states: str) -> None:
        self.states = states
        self._service = service
        service.answer("/api/tasks", self._list)
        service.answer("/api/tasks/counts", self._count)
        for id_ in states:
            service.answer(f"/api/tasks/{id_}", lambda id_=id_: make_task(id=id_, state=self.states[id_]))

    def _list(self) -> Json:
        _, path, _ = self._service.requests[-1]
        found = [
            make_task(id=id_, state=state)
            for id_, state in reversed(self.states.items())
            if "state=" not in path or f"state={state}" in path
        ]
        return {"items": found[:LIMIT], "next": None}

    def _count(self) -> Json:
        states = list(self.states.values())
        return {"counts": {state: states.count(state) for state in set(states)}}


@pytest.fixture
def snapshots(service: FakeService) -> Iterator[Iterator[TaskSnapshot]]:
    with (
        SyncClient(service.url, TOKEN, outage_tolerance=timedelta()) as client,
        closing(task_snapshots(client, TaskFilter(tags={}, batch=None, limit=LIMIT))) as seen,
    ):
        yield seen


def test_running_tasks_are_shown_before_newer_queued_ones(
    service: FakeService, snapshots: Iterator[TaskSnapshot]
) -> None:
    Tasks(service, a="processing", b="succeed", c="queued", d="queued", e="queued")

    first = next(snapshots)

    assert [task.id for task in first.tasks] == ["a", "e", "d"]
    assert first.summary == "1 running, 3 waiting, 1 done"


def test_the_end_of_a_task_that_left_the_list_is_a_change(
    service: FakeService, snapshots: Iterator[TaskSnapshot]
) -> None:
    tasks = Tasks(service, a="processing", b="queued", c="queued", d="queued")
    next(snapshots)

    tasks.states["a"] = "failed"
    second = next(snapshots)

    assert [(task.id, task.state) for task in second.changed] == [("a", "failed")]
    assert next(snapshots).changed == []


def test_a_deleted_task_is_not_shown_as_changed(service: FakeService, snapshots: Iterator[TaskSnapshot]) -> None:
    tasks = Tasks(service, a="processing", b="queued", c="queued", d="queued")
    next(snapshots)

    del tasks.states["a"]
    service.answer("/api/tasks/a", {"code": "not_found", "detail": "There is no task."}, status=404)

    assert next(snapshots).changed == []


def test_an_outage_is_shown_while_it_lasts(service: FakeService, snapshots: Iterator[TaskSnapshot]) -> None:
    Tasks(service, a="processing")
    next(snapshots)
    answers = dict(service.answers)

    service.answer("/api/tasks/counts", {"detail": "The disk is full."}, status=503)
    down = [next(snapshots), next(snapshots)]
    service.answers |= answers
    after = next(snapshots)

    for snapshot in down:
        assert snapshot.summary.startswith("Not current: The disk is full. Trying again since 0 s.")
        assert [task.id for task in snapshot.tasks] == ["a"]
        assert snapshot.changed == ()
    assert after.summary == "1 running, 0 waiting, 0 done"


def test_a_permanent_error_ends_the_command(service: FakeService, snapshots: Iterator[TaskSnapshot]) -> None:
    Tasks(service, a="processing")
    next(snapshots)

    service.answer("/api/tasks/counts", {"detail": "Not allowed."}, status=403)

    with pytest.raises(RequestFailed, match="Not allowed"):
        next(snapshots)


def test_a_service_that_does_not_answer_at_first_is_an_error(
    service: FakeService, snapshots: Iterator[TaskSnapshot]
) -> None:
    service.answer("/api/tasks/counts", {"detail": "The disk is full."}, status=503)

    with pytest.raises(ReceiverError, match="The disk is full"):
        next(snapshots)


def test_an_unknown_batch_is_an_error(
    service: FakeService, config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_snapshots(*_: object) -> Iterator[TaskSnapshot]:
        yield from ()

    monkeypatch.setattr("receiver.cli.watch_table.task_snapshots", no_snapshots)
    service.answer("/api/batches/nix", {"code": "not_found", "detail": "There is no batch 'nix'."}, status=404)

    assert main(["tasks", "watch", "--batch", "nix", "--config", str(config)]) == 1

    assert "There is no batch 'nix'." in capsys.readouterr().err
