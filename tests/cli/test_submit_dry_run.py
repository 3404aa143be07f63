"""`submit --dry-run`: about what a job will cost. Nothing is submitted."""

import json
from pathlib import Path

import pytest
from harness.fake_api import FakeService

from receiver.cli import main

ESTIMATE = {
    "endpoint": "videos/text2video",
    "model": "kling-v1",
    "pack": "video",
    "slots": 1,
    "charges": {"units": "0.70"},
    "tasks": 12,
    "summary": "about 0.70 units (median of 12 like it)",
}


def dry_run(config: Path, *argv: str) -> int:
    return main(["submit", "videos/text2video", "--set", "mode=pro", *argv, "--dry-run", "--config", str(config)])


def test_a_dry_run_prints_the_cost_and_submits_nothing(
    service: FakeService, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service.answer("/api/costs/estimate", ESTIMATE)

    code = dry_run(config, "--set", f"prompt={'long ' * 500}")

    captured = capsys.readouterr()
    assert code == 0
    assert captured.out.splitlines() == [
        "Cost: about 0.70 units (median of 12 like it).",
        "Takes 1 slot of the video pack.",
    ]
    assert "Nothing was submitted." in captured.err
    [(method, address, body)] = service.requests
    assert (method, address) == ("POST", "/api/costs/estimate")
    assert body == {"endpoint": "videos/text2video", "body": {"mode": "pro"}}


def test_a_dry_run_for_a_program_is_the_answer_as_json(
    service: FakeService, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service.answer("/api/costs/estimate", ESTIMATE)

    assert dry_run(config, "--json") == 0

    assert json.loads(capsys.readouterr().out) == ESTIMATE


def test_a_dry_run_of_a_file_of_jobs_is_refused(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = tmp_path / "jobs.jsonl"
    jobs.write_text('{"prompt": "a cat"}\n')

    code = main(["submit", "videos/text2video", "--body", f"@{jobs}", "--dry-run", "--config", str(config)])

    assert code == 2
    assert "--dry-run is for one job" in capsys.readouterr().err
