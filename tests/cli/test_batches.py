"""Batches and costs from the command line."""

import json
from pathlib import Path

import pytest
from harness.fake_api import FakeService, Json, make_task
from harness.run_cli import run_cli

from receiver.cli import main


def make_batch(**changes: object) -> Json:
    return {
        "name": "spring",
        "state": "open",
        "size": None,
        "tasks": 3,
        "counts": {"succeed": 1, "processing": 2},
        "created_at": "2026-11-22T10:00:00.000Z",
        "closed_at": None,
        "finished_at": None,
        "event_id": None,
    } | changes


def a_finished_batch(**counts: int) -> Json:
    at = "2026-11-22T11:00:00.000Z"
    return make_batch(state="finished", counts=counts, closed_at=at, finished_at=at, event_id="evt_one")


class AnswerSequence:
    """What the service says, one answer after the other; the last one stays."""

    def __init__(self, *answers: Json) -> None:
        self._answers = list(answers)

    def __call__(self) -> Json:
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]


def test_batches_list_counts_the_tasks_of_each(
    service: FakeService, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service.answer("/api/batches", {"items": [make_batch(), a_finished_batch(succeed=3) | {"size": 3}], "next": None})

    assert main(["batches", "list", "--config", str(config)]) == 0

    first, second = (line.split("\t") for line in capsys.readouterr().out.splitlines())
    assert first[:4] == ["spring", "open", "3 of ?", "1 succeed, 2 processing"]
    assert second[:4] == ["spring", "finished", "3 of 3", "3 succeed"]


def test_a_batch_is_shown_and_closed(service: FakeService, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    service.answer("/api/batches/spring", make_batch())
    service.answer("/api/batches/spring/close", make_batch(state="closed", closed_at="2026-11-22T10:30:00.000Z"))

    assert main(["batches", "show", "spring", "--config", str(config)]) == 0
    assert main(["batches", "close", "spring", "--why", "all in", "--config", str(config)]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert "processing\t2" in lines
    assert lines[-6:] == [
        "state\tclosed",
        "tasks\t3",
        "succeed\t1",
        "processing\t2",
        "created at\t2026-11-22T10:00:00.000Z",
        "closed at\t2026-11-22T10:30:00.000Z",
    ]
    assert service.requests[-1] == ("POST", "/api/batches/spring/close", {"why": "all in"})


def test_waiting_for_a_batch_prints_its_outcome(
    service: FakeService, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service.answer("/api/batches/spring", AnswerSequence(make_batch(), a_finished_batch(succeed=3)))

    code = main(["batches", "wait", "spring", "--config", str(config)])

    out, err = capsys.readouterr()
    assert (code, out) == (0, "Batch spring is finished: 3 succeed.\n")
    assert [line.split("  ")[-1] for line in err.splitlines()] == [
        "open: 1 succeed, 2 processing",
        "finished: 3 succeed",
    ]


def test_a_batch_with_a_failed_task_exits_with_1(service: FakeService, config: Path) -> None:
    service.answer("/api/batches/spring", a_finished_batch(succeed=2, failed=1))

    ended = run_cli("batches", "wait", "spring", "--config", config)
    as_json = run_cli("batches", "wait", "spring", "--json", "--config", config)

    assert (ended.returncode, as_json.returncode) == (1, 1)
    assert "2 succeed, 1 failed" in ended.stderr
    assert "tasks list --batch spring --state failed" in ended.stderr
    assert json.loads(as_json.stdout)["counts"] == {"succeed": 2, "failed": 1}


def test_waiting_for_a_batch_times_out_with_the_missing_tasks(service: FakeService, config: Path) -> None:
    service.answer("/api/batches/spring", make_batch())

    ended = run_cli("batches", "wait", "spring", "--timeout", "100ms", "--config", config)

    assert ended.returncode == 1
    assert "still open: 1 succeed, 2 processing" in ended.stderr
    assert "kling-receiver batches close spring" in ended.stderr


def test_submit_sends_the_batch(service: FakeService, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    service.answer("/api/tasks", make_task(), status=202)
    job = ["submit", "images/generations", "--set", "prompt=x", "--config", str(config)]

    assert main([*job, "--batch", "spring"]) == 0
    assert main([*job, "--batch", "spring", "--batch-size", "50"]) == 0
    assert main([*job, "--batch-size", "50"]) == 2

    assert "Name the batch with --batch" in capsys.readouterr().err
    assert [body["batch"] for _, _, body in service.requests] == [
        {"name": "spring", "size": None},
        {"name": "spring", "size": 50},
    ]


def test_the_last_submit_closes_its_batch(
    service: FakeService, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service.answer("/api/tasks", make_task(), status=202)
    service.answer("/api/batches/spring/close", make_batch(state="closed"))
    job = ["submit", "images/generations", "--set", "prompt=x", "--close-batch", "--config", str(config)]

    assert main([*job, "--batch", "spring"]) == 0
    assert main(job) == 2

    assert "Name the batch with --batch" in capsys.readouterr().err
    assert [path for _, path, _ in service.requests] == ["/api/tasks", "/api/batches/spring/close"]


def test_a_job_file_closes_its_batches_after_the_last_job(
    tmp_path: Path, service: FakeService, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service.answer("/api/tasks", make_task(), status=202)
    for name in ("autumn", "spring"):
        service.answer(f"/api/batches/{name}/close", make_batch(name=name, state="closed"))
    jobs, loose = tmp_path / "jobs.jsonl", tmp_path / "loose.jsonl"
    lines = [{"body": {"prompt": "a"}, "batch": {"name": "autumn", "size": 9}}, {"prompt": "b"}, {"prompt": "c"}]
    jobs.write_text("".join(json.dumps(line) + "\n" for line in lines))
    loose.write_text('{"prompt": "a"}\n')
    command = ["submit", "images/generations", "--close-batch", "--config", str(config)]

    assert main([*command, "--body", f"@{jobs}", "--batch", "spring"]) == 0
    assert main([*command, "--body", f"@{loose}"]) == 2

    assert "in the lines of the file" in capsys.readouterr().err
    assert [path for _, path, _ in service.requests] == [
        *["/api/tasks"] * 3,
        "/api/batches/autumn/close",
        "/api/batches/spring/close",
    ]


COSTS = {
    "by": "tag:project",
    "from": None,
    "to": None,
    "items": [
        {"name": None, "tasks": 1, "charges": {}},
        {"name": "ads", "tasks": 2, "charges": {"units": "3.50", "list_price": "0.1"}},
    ],
    "left_out": 0,
    "total": {"name": None, "tasks": 3, "charges": {"list_price": "0.1", "units": "3.50"}},
}


def test_costs_are_a_table_with_a_total(service: FakeService, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    service.answer("/api/costs", COSTS)

    code = main([
        "tasks", "cost", "--by", "tag:project", "--from", "2026-11-01T00:00:00Z", "--to", "2026-12-01T00:00:00Z",
        "--config", str(config),
    ])  # fmt: skip

    assert code == 0
    assert capsys.readouterr().out.splitlines() == [
        "(none)\t1\t0\t0",
        "ads\t2\t0.1\t3.50",
        "total\t3\t0.1\t3.50",
    ]
    [(_, address, _)] = service.requests
    assert sorted(address.partition("?")[2].split("&")) == [
        "by=tag%3Aproject",
        "from=2026-11-01T00%3A00%3A00%2B00%3A00",
        "to=2026-12-01T00%3A00%3A00%2B00%3A00",
    ]


def test_a_day_of_costs_is_a_day_in_utc(service: FakeService, config: Path) -> None:
    service.answer("/api/costs", COSTS)

    for since in ("2026-11-27", "2026-11-27 00:00"):
        ended = run_cli("tasks", "cost", "--from", since, "--config", config, env={"TZ": "JST-9"})
        assert ended.returncode == 0

    assert [address.rpartition("from=")[2] for _, address, _ in service.requests] == [
        "2026-11-27T00%3A00%3A00%2B00%3A00",
        "2026-11-26T15%3A00%3A00%2B00%3A00",
    ]


def test_costs_until_before_from_are_a_usage_error(
    service: FakeService, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tasks", "cost", "--from", "1h", "--to", "2h", "--config", str(config)]) == 2
    assert "--from must be before --to" in capsys.readouterr().err
    assert service.requests == []


def test_costs_json_is_the_apis_answer(service: FakeService, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    service.answer("/api/costs", COSTS)

    assert main(["tasks", "cost", "--json", "--config", str(config)]) == 0
    assert json.loads(capsys.readouterr().out) == COSTS


def test_a_task_shows_batch_and_cost(service: FakeService, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cost = {"charges": {"units": "1.5"}, "said": {"final_unit_deduction": "1.5"}}
    service.answer("/api/tasks/tsk_one", make_task(batch="spring", cost=cost))

    assert main(["tasks", "show", "tsk_one", "--config", str(config)]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert "batch\tspring" in lines
    assert "cost\t1.5 units" in lines
