"""Errors with --json: one problem object (RFC 9457) on stderr, and nothing on stdout."""

import json
from pathlib import Path
from typing import Any

import pytest
from harness.fake_api import FakeService
from harness.run_cli import run_cli


@pytest.mark.parametrize(
    ("argv", "code", "members"),
    [
        ("tasks show nothing", 1, {"title": "Not Found", "status": 404, "code": "not_found"}),
        ("tasks list --state x", 2, {"title": "Wrong usage", "code": "usage"}),
        ("tasks list --nope", 2, {"title": "Wrong usage", "code": "usage"}),
        ("tasks list --token another", 1, {"title": "Unauthorized", "status": 401, "code": "request_failed"}),
        ("tasks list --url http://127.0.0.1:1", 1, {"title": "Service unreachable", "code": "service_unreachable"}),
    ],
)
def test_an_error_is_a_problem_object(
    service: FakeService, config: Path, argv: str, code: int, members: dict[str, Any]
) -> None:
    service.answer("/api/tasks", {"code": "invalid_request", "detail": "'state' has a wrong value."}, status=400)

    ended = run_cli(*argv.split(), "--json", "--config", config)

    assert (ended.returncode, ended.stdout) == (code, "")
    problem = json.loads(ended.stderr)
    assert problem["type"] == "about:blank"
    assert problem["detail"]
    assert members.items() <= problem.items()
    assert ("status" in problem) == ("status" in members)


def test_a_wrong_configuration_lists_its_faults(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text('[admin]\nlisten = 8701\n[store]\nurl = "mysql:x"\n')

    ended = run_cli("tasks", "list", "--json", "--config", config)

    assert (ended.returncode, ended.stdout) == (78, "")
    problem = json.loads(ended.stderr)
    assert (problem["title"], problem["code"]) == ("Invalid configuration", "configuration")
    assert [(fault["line"], fault["key"]) for fault in problem["faults"]] == [(2, "admin.listen"), (4, "store.url")]


def test_json_after_two_hyphens_is_an_argument_of_the_program() -> None:
    ended = run_cli("listen", "--", "no-such-program", "--json")

    assert ended.stderr.startswith("kling-receiver: no-such-program is not an executable program.")
