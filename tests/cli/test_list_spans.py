"""`--from` and `--to` of the lists, also written `--since` and `--until`."""

import json
from pathlib import Path

import pytest
from harness.fake_api import FakeService

from receiver.cli import main
from receiver.cli.completion_table import completion_table

LISTS = ["tasks", "events", "deliveries", "alerts"]


def asked(service: FakeService, list_: str) -> str:
    (path,) = [path for _, path, _ in service.requests if path.startswith(f"/api/{list_}")]
    return path


@pytest.mark.parametrize("list_", LISTS)
@pytest.mark.parametrize("options", [("--from", "--to"), ("--since", "--until")])
def test_a_list_is_limited_to_a_span(service: FakeService, config: Path, list_: str, options: tuple[str, str]) -> None:
    service.answer(f"/api/{list_}", {"items": [], "next": None})
    span = [options[0], "2026-11-22T10:00:00Z", options[1], "2026-11-23 10:00+02:00"]

    assert main([list_, "list", *span, "--config", str(config)]) == 0

    path = asked(service, list_)
    assert "from=2026-11-22T10%3A00%3A00%2B00%3A00" in path
    assert "to=2026-11-23T08%3A00%3A00%2B00%3A00" in path


@pytest.mark.parametrize("command", ["replay", "tasks cost", "costs check"])
def test_every_span_option_has_both_names(command: str) -> None:
    options = json.loads(completion_table())[command]["options"]

    assert {"--from", "--since", "--to", "--until"} <= set(options)


@pytest.mark.parametrize(
    ("span", "message"),
    [(["--from", "1h", "--to", "2h"], "--from must be before --to."), (["--since", "soon"], "'soon' is not a time")],
)
def test_an_invalid_span_is_refused(
    service: FakeService, config: Path, capsys: pytest.CaptureFixture[str], span: list[str], message: str
) -> None:
    assert main(["tasks", "list", *span, "--config", str(config)]) == 2

    assert message in capsys.readouterr().err
    assert service.requests == []
