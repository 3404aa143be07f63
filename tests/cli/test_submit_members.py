"""What `submit` makes of --set, --set-json and --body."""

from pathlib import Path
from typing import Any

import pytest
from harness.fake_api import FakeService, make_task
from harness.run_cli import run_cli

from receiver.cli import main


@pytest.mark.parametrize("value", ["2024", "true", "null", '"hello"', "[1]", "1e5", ""])
def test_a_text_member_keeps_its_text(service: FakeService, config: Path, value: str) -> None:
    assert submitted(service, config, "--set", f"prompt={value}") == {"prompt": value}


DEEP = pytest.param("[" * 100_000, id="deep")


@pytest.mark.parametrize(
    ("value", "expected"),
    [("4", 4), ("true", True), ("many", "many"), pytest.param("[" * 100_000, None, id="deep")],
)
def test_another_member_is_json_or_text(service: FakeService, config: Path, value: str, expected: object) -> None:
    assert submitted(service, config, "--set", f"n={value}") == {"n": value if expected is None else expected}


def test_set_json_sets_any_member_to_json(service: FakeService, config: Path) -> None:
    options = ("--set", "prompt=1", "--set-json", "prompt=2", "--set-json", 'camera.config={"zoom": 1.5}')

    assert submitted(service, config, *options) == {"prompt": 2, "camera": {"config": {"zoom": 1.5}}}


@pytest.mark.parametrize("value", ["many", "", "NaN", "{", DEEP])
def test_set_json_refuses_what_is_not_json(
    service: FakeService, config: Path, capsys: pytest.CaptureFixture[str], value: str
) -> None:
    code = main(["submit", "images/generations", "--set-json", f"n={value}", "--config", str(config)])

    assert code == 2
    assert capsys.readouterr().err == (
        "kling-receiver: --set-json n: the value is not JSON."
        " Write text with --set n=TEXT, or in quotes: --set-json 'n=\"TEXT\"'.\n"
    )
    assert service.requests == []


@pytest.mark.parametrize("option", ["--set", "--set-json"])
def test_a_member_needs_a_key_and_a_value(config: Path, capsys: pytest.CaptureFixture[str], option: str) -> None:
    for setting in ("n", "=1", "a..b=1"):
        assert main(["submit", "images/generations", option, setting, "--config", str(config)]) == 2
        assert f"{option} '{setting}' is not of the form key=value." in capsys.readouterr().err


def test_a_body_may_begin_with_a_byte_order_mark(service: FakeService, config: Path, tmp_path: Path) -> None:
    body = tmp_path / "body.json"
    body.write_text('{"n": 1}', encoding="utf-8-sig")
    service.answer("/api/tasks", make_task(state="queued"), status=202)

    assert submitted(service, config, "--body", f"@{body}") == {"n": 1}
    ended = run_cli("submit", "images/generations", "--body", "-", "--config", config, stdin='\ufeff{"n": 2}')
    assert ended.returncode == 0
    assert service.requests[-1][2]["body"] == {"n": 2}


def submitted(service: FakeService, config: Path, *options: str) -> Any:
    service.answer("/api/tasks", make_task(state="queued"), status=202)
    assert main(["submit", "images/generations", *options, "--config", str(config)]) == 0
    return service.requests[-1][2]["body"]
