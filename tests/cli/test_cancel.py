"""`tasks cancel`: by id or by filter. Tasks that are no longer queued are reported and stay as they are."""

import json
from pathlib import Path

import pytest
from cli.test_batches import make_batch
from harness.fake_api import FakeService, make_task

from receiver.cli import main


def a_queued_task(number: int, **changes: object) -> dict[str, object]:
    return make_task(id=f"tsk_{number}", state="queued", kling_id=None, **changes)


def allow_cancel(service: FakeService, *tasks: dict[str, object]) -> None:
    for task in tasks:
        service.answer(f"/api/tasks/{task['id']}", task)
        service.answer(f"/api/tasks/{task['id']}/cancel", task | {"state": "cancelled", "message": "cancelled by me."})


def refuse_cancel(service: FakeService, task: dict[str, object]) -> None:
    service.answer(f"/api/tasks/{task['id']}", task)
    service.answer(f"/api/tasks/{task['id']}/cancel", TOO_LATE, status=409)


TOO_LATE = {"type": "about:blank", "title": "conflict", "status": 409, "detail": "Too late.", "code": "conflict"}


def test_cancel_by_id_prints_each_task(service: FakeService, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    allow_cancel(service, a_queued_task(1), a_queued_task(2))

    code = main(["tasks", "cancel", "tsk_1", "tsk_2", "--why", "a typo", "--config", str(config)])

    out, err = capsys.readouterr()
    assert code == 0
    assert [line.split("\t")[:2] for line in out.splitlines()] == [["tsk_1", "cancelled"], ["tsk_2", "cancelled"]]
    assert err == "2 tasks cancelled.\n"
    posted = [(path, body) for method, path, body in service.requests if method == "POST"]
    assert posted == [(f"/api/tasks/tsk_{n}/cancel", {"why": "a typo"}) for n in (1, 2)]


def test_cancel_fails_if_a_named_task_cannot_be_cancelled(
    service: FakeService, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    allow_cancel(service, a_queued_task(1))
    refuse_cancel(service, make_task(id="tsk_2", state="processing"))

    code = main(["tasks", "cancel", "tsk_1", "tsk_2", "--json", "--config", str(config)])

    out, err = capsys.readouterr()
    assert code == 1
    assert [item["id"] for item in json.loads(out)["items"]] == ["tsk_1"]
    assert err == "1 task cancelled. 1 task already sent to Kling or finished: tsk_2.\n"


def test_cancel_by_filter_cancels_every_page(
    service: FakeService, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pages = iter(
        [{"items": [a_queued_task(1), a_queued_task(2)], "next": "more"}, {"items": [a_queued_task(3)], "next": None}]
    )
    service.answer("/api/tasks", lambda: next(pages))
    allow_cancel(service, a_queued_task(1), a_queued_task(3))
    refuse_cancel(service, a_queued_task(2) | {"state": "submitted"})

    code = main(["tasks", "cancel", "--batch", "spring", "--tag", "project=ads", "--config", str(config)])

    assert code == 0, "those that went meanwhile were not asked for"
    assert capsys.readouterr().err == "2 tasks cancelled. 1 task already sent to Kling or finished: tsk_2.\n"
    paths = [path for method, path, _ in service.requests if method == "GET" and path.startswith("/api/tasks?")]
    assert paths[0] == "/api/tasks?state=queued&batch=spring&limit=500&tag=project%3Aads"
    assert "cursor=more" in paths[1]


def test_a_dry_run_cancels_nothing(service: FakeService, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    service.answer("/api/tasks", {"items": [a_queued_task(1), a_queued_task(2)], "next": None})

    code = main(["tasks", "cancel", "--label", "spring", "--dry-run", "--config", str(config)])

    out, err = capsys.readouterr()
    assert (code, err) == (0, "2 tasks would be cancelled.\n")
    assert [line.split("\t")[0] for line in out.splitlines()] == ["tsk_1", "tsk_2"]
    assert {method for method, _, _ in service.requests} == {"GET"}


@pytest.mark.parametrize(
    ("argv", "fault"),
    [
        ([], "No tasks are selected."),
        (["tsk_1", "--batch", "spring"], "Both task ids and a selection are given."),
    ],
)
def test_cancel_takes_either_ids_or_filters(
    service: FakeService, config: Path, capsys: pytest.CaptureFixture[str], argv: list[str], fault: str
) -> None:
    code = main(["tasks", "cancel", *argv, "--config", str(config)])

    assert code == 2
    assert f"kling-receiver: {fault} Give either task ids, or --batch" in capsys.readouterr().err
    assert service.requests == []


SELECTIONS = [
    (("cancel",), "No task matches; nothing was cancelled.\n"),
    (("retry", "--failed", "--yes"), "No task matches; nothing was submitted.\n"),
]


@pytest.mark.parametrize(("command", "message"), SELECTIONS)
def test_a_selection_without_tasks_says_that_nothing_was_done(
    service: FakeService, config: Path, capsys: pytest.CaptureFixture[str], command: tuple[str, ...], message: str
) -> None:
    service.answer("/api/tasks", {"items": [], "next": None})
    service.answer("/api/batches/spring", make_batch())

    assert main(["tasks", *command, "--batch", "spring", "--config", str(config)]) == 0
    assert capsys.readouterr().err == message


@pytest.mark.parametrize(("command", "_message"), SELECTIONS)
def test_a_selection_by_an_unknown_batch_is_an_error(
    service: FakeService, config: Path, capsys: pytest.CaptureFixture[str], command: tuple[str, ...], _message: str
) -> None:
    service.answer("/api/tasks", {"items": [], "next": None})
    service.answer("/api/batches/nix", {"code": "not_found", "detail": "There is no batch 'nix'."}, status=404)

    assert main(["tasks", *command, "--batch", "nix", "--config", str(config)]) == 1
    assert "There is no batch 'nix'." in capsys.readouterr().err
