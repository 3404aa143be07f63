"""Tasks that wait are cancelled by name or by choice; what was too late is said, and nothing else is touched."""

import json
from pathlib import Path

import pytest
from harness.fake_api import Service, make_task

from receiver.cli import main


def waiting(number: int, **changes: object) -> dict[str, object]:
    return make_task(id=f"tsk_{number}", state="queued", kling_id=None, **changes)


def let_cancel(service: Service, *tasks: dict[str, object]) -> None:
    for task in tasks:
        service.answer(f"/api/tasks/{task['id']}", task)
        service.answer(f"/api/tasks/{task['id']}/cancel", task | {"state": "rejected", "message": "cancelled by me."})


def refuse(service: Service, task: dict[str, object]) -> None:
    service.answer(f"/api/tasks/{task['id']}", task)
    service.answer(f"/api/tasks/{task['id']}/cancel", TOO_LATE, status=409)


TOO_LATE = {"type": "about:blank", "title": "conflict", "status": 409, "detail": "Too late.", "code": "conflict"}


def test_what_is_named_is_cancelled_and_shown(
    service: Service, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    let_cancel(service, waiting(1), waiting(2))

    code = main(["tasks", "cancel", "tsk_1", "tsk_2", "--why", "a typo", "--config", str(config)])

    out, err = capsys.readouterr()
    assert code == 0
    assert [line.split("\t")[:2] for line in out.splitlines()] == [["tsk_1", "rejected"], ["tsk_2", "rejected"]]
    assert err == "2 tasks cancelled.\n"
    posted = [(path, body) for method, path, body in service.asked if method == "POST"]
    assert posted == [(f"/api/tasks/tsk_{n}/cancel", {"why": "a typo"}) for n in (1, 2)]


def test_one_that_is_named_and_cannot_be_makes_it_fail(
    service: Service, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    let_cancel(service, waiting(1))
    refuse(service, make_task(id="tsk_2", state="processing"))

    code = main(["tasks", "cancel", "tsk_1", "tsk_2", "--json", "--config", str(config)])

    out, err = capsys.readouterr()
    assert code == 1
    assert [item["id"] for item in json.loads(out)["items"]] == ["tsk_1"]
    assert err == "1 task cancelled. 1 task had gone to Kling, or ended: tsk_2.\n"


def test_all_that_wait_of_a_choice_are_cancelled_page_by_page(
    service: Service, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pages = iter([{"items": [waiting(1), waiting(2)], "next": "more"}, {"items": [waiting(3)], "next": None}])
    service.answer("/api/tasks", lambda: next(pages))
    let_cancel(service, waiting(1), waiting(3))
    refuse(service, waiting(2) | {"state": "submitted"})

    code = main(["tasks", "cancel", "--batch", "spring", "--tag", "project=ads", "--config", str(config)])

    assert code == 0, "those that went meanwhile were not asked for"
    assert capsys.readouterr().err == "2 tasks cancelled. 1 task had gone to Kling, or ended: tsk_2.\n"
    asked = [path for method, path, _ in service.asked if method == "GET" and path.startswith("/api/tasks?")]
    assert asked[0] == "/api/tasks?state=queued&batch=spring&limit=500&tag=project%3Aads"
    assert "cursor=more" in asked[1]


def test_a_dry_run_only_tells(service: Service, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    service.answer("/api/tasks", {"items": [waiting(1), waiting(2)], "next": None})

    code = main(["tasks", "cancel", "--label", "spring", "--dry-run", "--config", str(config)])

    out, err = capsys.readouterr()
    assert (code, err) == (0, "2 tasks would be cancelled.\n")
    assert [line.split("\t")[0] for line in out.splitlines()] == ["tsk_1", "tsk_2"]
    assert {method for method, _, _ in service.asked} == {"GET"}


@pytest.mark.parametrize("argv", [[], ["tsk_1", "--batch", "spring"]])
def test_it_is_said_in_one_way_which_tasks(
    service: Service, config: Path, capsys: pytest.CaptureFixture[str], argv: list[str]
) -> None:
    code = main(["tasks", "cancel", *argv, "--config", str(config)])

    assert code == 2
    assert "Say which tasks, in one of two ways." in capsys.readouterr().err
    assert service.asked == []
