"""`submit` of a file says what is new, and what stays open."""

import json
from pathlib import Path

import pytest
from cli.test_batches import AnswerSequence, make_batch
from harness.fake_api import FakeService, Json, make_task

from receiver.cli import main

JOBS = 10


def submit(config: Path, *options: str) -> int:
    path = config.with_name("jobs.jsonl")
    path.write_text("\n".join(json.dumps({"prompt": f"cat {number}"}) for number in range(JOBS)))
    return main(["submit", "images/generations", "--body", f"@{path}", *options, "--config", str(config)])


def numbered_tasks(**changes: object) -> AnswerSequence:
    created_at = {"created_at": "2026-11-22T10:00:00.000Z"}
    tasks: list[Json] = [make_task(id=f"tsk_{number}", **changes) | created_at for number in range(JOBS)]
    return AnswerSequence(*tasks)


def test_a_file_submitted_before_is_not_counted_as_submitted(
    service: FakeService, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service.answer("/api/tasks", numbered_tasks(existing=True))

    assert submit(config) == 0

    errors = capsys.readouterr().err
    assert f"{JOBS}/{JOBS} jobs: 0 submitted, {JOBS} submitted earlier" in errors
    assert f"{JOBS} jobs: 0 new" in errors
    assert f"{JOBS}/{JOBS} submitted" not in errors


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("succeed", "succeeded earlier (2026-11-22)."),
        ("processing", "still running (2026-11-22)."),
        ("cancelled", "cancelled earlier (2026-11-22)."),
    ],
)
def test_a_repeated_file_without_failures_has_no_hint_to_run_it_again(
    service: FakeService, config: Path, capsys: pytest.CaptureFixture[str], state: str, words: str
) -> None:
    service.answer("/api/tasks", numbered_tasks(existing=True, state=state))

    submit(config)

    assert f"{JOBS} jobs: 0 new, {JOBS} {words}\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("batch", "command"), [("spring", "`tasks retry --failed --batch spring`"), (None, "`tasks retry ID`")]
)
def test_a_repeated_file_with_failures_names_the_command_that_retries_them(
    service: FakeService, config: Path, capsys: pytest.CaptureFixture[str], batch: str | None, command: str
) -> None:
    service.answer("/api/tasks", numbered_tasks(existing=True, state="failed", batch=batch))

    submit(config)

    hint = f"To run the failed ones again: {command}. To pay for all of them again: --new."
    assert f"{JOBS} failed earlier (2026-11-22). {hint}\n" in capsys.readouterr().err


def test_new_jobs_are_counted_as_submitted(
    service: FakeService, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service.answer("/api/tasks", numbered_tasks())

    assert submit(config) == 0

    assert f"{JOBS}/{JOBS} jobs: {JOBS} submitted\n" in capsys.readouterr().err


@pytest.mark.parametrize(("state", "is_named"), [("open", True), ("closed", False)])
def test_a_batch_that_stays_open_is_named_with_the_command_that_closes_it(
    service: FakeService, config: Path, capsys: pytest.CaptureFixture[str], state: str, is_named: bool
) -> None:
    service.answer("/api/tasks", numbered_tasks(batch="spring"))
    service.answer("/api/batches/spring", make_batch(state=state))

    assert submit(config, "--batch", "spring") == 0

    assert ("`kling-receiver batches close spring`" in capsys.readouterr().err) is is_named


def test_waiting_for_an_open_batch_says_once_that_it_is_open(
    service: FakeService, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = make_batch(counts={"succeed": 3})
    finished = make_batch(state="finished", counts={"succeed": 3}, finished_at="2026-11-22T11:00:00.000Z")
    service.answer("/api/batches/spring", AnswerSequence(make_batch(), ended, ended, finished))

    assert main(["batches", "wait", "spring", "--config", str(config)]) == 0

    assert capsys.readouterr().err.count("`kling-receiver batches close spring`") == 1


def test_the_name_of_the_batch_is_checked_before_the_first_job(
    service: FakeService, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert submit(config, "--batch", "bad name") == 2

    errors = capsys.readouterr().err
    assert "--batch must be at most 100 letters, digits or . _ : - " in errors
    assert "found 'bad name'." in errors
    assert service.requests == []


@pytest.mark.parametrize(
    ("status", "code"), [(400, "invalid_request"), (409, "conflict"), (403, "forbidden"), (429, "busy")]
)
def test_repeating_the_command_is_suggested_only_after_a_temporary_error(
    service: FakeService, config: Path, capsys: pytest.CaptureFixture[str], status: int, code: str
) -> None:
    service.answer("/api/tasks", {"code": code, "detail": "Refused."}, status=status)

    assert submit(config) == 1

    errors = capsys.readouterr().err
    assert f"Refused. 0 of {JOBS} jobs submitted." in errors
    assert ("Run the same command again" in errors) is (status == 429)


def test_a_refused_submit_with_new_run_keeps_its_key(
    service: FakeService, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service.answer("/api/tasks", {"code": "conflict", "detail": "The batch is closed."}, status=409)

    assert submit(config, "--new") == 1

    assert "Correct the cause first. To resume, run the same command with --new --idempotency-key" in (
        capsys.readouterr().err
    )
