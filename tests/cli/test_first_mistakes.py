"""The messages for mistakes of a first day: each names the mistake and what to write instead."""

from pathlib import Path

import pytest
from harness.fake_api import TOKEN, FakeService, make_task
from harness.ports import free_port

from receiver.cli import main, render


def error_of(config: Path, capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main([*argv, "--config", str(config)]) != 0
    return capsys.readouterr().err


def test_a_member_without_set_is_named(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    err = error_of(config, capsys, "submit", "images/generations", "prompt=a cat")

    assert err.startswith("kling-receiver: Unexpected argument 'prompt=a cat'. Write --set 'prompt=a cat'.\n")


def test_another_unexpected_argument_is_named(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    err = error_of(config, capsys, "tasks", "show", "tsk_1", "tsk_2")

    assert err.startswith("kling-receiver: Unexpected argument 'tsk_2'.\n")


@pytest.mark.parametrize("content", ["", " \n"])
def test_an_empty_body_is_named(tmp_path: Path, config: Path, capsys: pytest.CaptureFixture[str], content: str) -> None:
    (tmp_path / "job.json").write_text(content)

    for body in (content, f"@{tmp_path}/job.json"):
        assert "--body is empty." in error_of(config, capsys, "submit", "images/generations", "--body", body)


def test_a_file_without_an_at_sign_is_recognized(
    tmp_path: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (job := tmp_path / "job.json").write_text("{}")

    err = error_of(config, capsys, "submit", "images/generations", "--body", str(job))

    assert err.endswith(f"To read the file: --body @{job}\n")


def test_an_error_for_a_csv_file_names_the_format_of_many_jobs(
    tmp_path: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "jobs.csv").write_text("prompt,n\na lion,1\n")

    err = error_of(config, capsys, "submit", "images/generations", "--body", f"@{tmp_path}/jobs.csv")

    assert "one JSON object on each line of a file that ends in .jsonl" in err


@pytest.mark.parametrize(("path", "suggests"), [("images/generation", True), ("images/a-new-model", False)])
def test_an_unlisted_endpoint_is_submitted_and_a_typo_gets_a_suggestion(
    service: FakeService, config: Path, capsys: pytest.CaptureFixture[str], path: str, suggests: bool
) -> None:
    service.answer("/api/tasks", make_task(state="submitted"), status=202)

    assert main(["submit", path, "--set", "prompt=a cat", "--config", str(config)]) == 0

    assert ("Did you mean images/generations?" in capsys.readouterr().err) is suggests
    assert service.requests[0][2]["endpoint"] == path


def test_a_rejected_task_has_nothing_to_wait_for(
    service: FakeService, config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(render, "is_terminal", lambda _stream=None: True)
    service.answer("/api/tasks", make_task(state="rejected", message="prompt is invalid"), status=202)

    assert "tasks wait" not in error_of(config, capsys, "submit", "images/generations", "--set", "prompt=a cat")


def test_a_remedy_that_the_message_contains_is_not_repeated(
    service: FakeService, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    detail = "There is no route 'ap'. List the routes with `kling-receiver routes list`."
    service.answer("/api/routes/ap/hold", {"code": "not_found", "detail": detail}, status=404)

    assert error_of(config, capsys, "routes", "hold", "ap") == f"kling-receiver: {detail}\n"


def test_a_quoted_value_is_not_rewritten_as_an_option(
    service: FakeService, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    detail = "'by' must be tag:NAME or one of: day; found 'tag'."
    service.answer("/api/costs", {"code": "invalid_request", "detail": detail}, status=400)

    err = error_of(config, capsys, "tasks", "cost", "--by", "tag")

    assert err == "kling-receiver: --by must be tag:NAME or one of: day; found 'tag'.\n"


def test_an_answer_of_another_program_is_reported_as_such(
    service: FakeService, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service.answer("/api/tasks", {}, status=404)

    assert "The answer with status 404 is not from Kling Receiver." in error_of(config, capsys, "tasks", "list")


def test_submit_and_config_check_need_no_secret_of_a_route(
    service: FakeService, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    route = '[[routes]]\nname = "app"\nwebhook = { url = "http://127.0.0.1:9/", secret = "env:UNSET_HOOK_SECRET" }\n'
    config.write_text(f"{config.read_text()}\n{route}")
    service.answer("/api/tasks", make_task(state="submitted"), status=202)

    assert main(["submit", "images/generations", "--set", "prompt=a cat", "--config", str(config)]) == 0
    assert main(["config", "check", "--config", str(config)]) == 0
    output = capsys.readouterr()
    assert "UNSET_HOOK_SECRET" in output.out + output.err


def test_the_public_listener_is_recognized(capsys: pytest.CaptureFixture[str], service: FakeService) -> None:
    problem = {"code": "not_found", "detail": "Nothing is served at this path."}
    service.answer("/api/tasks", problem, status=404)

    assert main(["tasks", "list", "--url", service.url, "--token", TOKEN]) == 1

    assert capsys.readouterr().err == (
        f"kling-receiver: {service.url} does not serve this API. It is probably the public listener (port 8700). "
        "Commands need the admin listener (port 8701): check --url.\n"
    )


def test_a_wrong_token_of_an_option_is_named(service: FakeService, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tasks", "list", "--url", service.url, "--token", "another"]) == 1

    err = capsys.readouterr().err
    assert "Check --url and --token" in err
    assert "--config" not in err


def test_a_dead_host_of_an_option_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tasks", "list", "--url", url := f"http://127.0.0.1:{free_port()}", "--token", "any"]) == 1

    assert capsys.readouterr().err == (
        f"kling-receiver: No service answers at {url}. "
        "Check --url: it must be the admin listener of a running service.\n"
    )


def test_the_help_of_costs_names_the_command_that_sums_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["costs", "--help"]) == 0

    assert "tasks cost" in capsys.readouterr().out


def test_a_wrong_state_of_a_trigger_is_named_as_an_argument(
    service: FakeService, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    detail = "'state' must be one of: failed, succeed; found 'sucess'."
    service.answer("/api/trigger", {"code": "invalid_request", "detail": detail}, status=400)

    assert error_of(config, capsys, "trigger", "sucess").startswith(
        "kling-receiver: STATE must be one of: failed, succeed; found 'sucess'."
    )
