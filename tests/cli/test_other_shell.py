"""Commands in another shell or on another machine than the service: without its secrets, or without its file."""

import json
from pathlib import Path

import pytest
from cli.conftest import write_config
from harness.fake_api import TOKEN, FakeService, make_task
from harness.ports import free_port
from harness.run_cli import run_cli

SECRETS = """
[[routes]]
name = "publish"
webhook = { url = "env:PUBLISH_URL", secret = "env:PUBLISH_SECRET", headers = { authorization = "credential:app" } }
[callbacks]
signing_secrets = ["env:KLING_WEBHOOK_SECRET"]
"""
REFERENCES = ["env:KLING_WEBHOOK_SECRET", "env:PUBLISH_URL", "env:PUBLISH_SECRET", "credential:app"]


@pytest.fixture
def tasks(service: FakeService) -> FakeService:
    service.answer("/api/tasks", {"items": [make_task()], "next": None})
    return service


def test_a_command_needs_no_secret_of_routes(tmp_path: Path, tasks: FakeService) -> None:
    config = write_config(tmp_path, tasks.port)
    config.write_text(config.read_text() + SECRETS)

    listed = run_cli("tasks", "list", "--config", config)

    assert (listed.returncode, listed.stderr) == (0, "")
    assert "tsk_one" in listed.stdout


def test_a_command_still_reports_a_wrong_admin_address_with_its_line(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text('[admin]\nlisten = "here"\n')

    listed = run_cli("tasks", "list", "--config", config)

    assert listed.returncode == 78
    assert "config.toml:2: admin.listen: " in listed.stderr


def test_an_admin_token_that_this_shell_cannot_read_is_an_error(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text('[admin]\ntoken = "env:OUR_ADMIN_TOKEN"\n')

    listed = run_cli("tasks", "list", "--config", config)

    assert listed.returncode == 78
    assert "the environment variable OUR_ADMIN_TOKEN is not set" in listed.stderr


def test_config_check_names_secrets_that_only_the_service_has(tmp_path: Path) -> None:
    config = write_config(tmp_path, free_port())
    config.write_text(config.read_text() + SECRETS)

    as_text = run_cli("config", "check", "--config", config)
    as_json = run_cli("config", "check", "--json", "--config", config)

    assert as_text.returncode == 0
    assert "Could not be looked up here: " in as_text.stderr
    assert all(reference in as_text.stderr for reference in REFERENCES)
    assert as_text.stdout.endswith(": good (routes: publish)\n")
    assert json.loads(as_json.stdout)["unavailable"] == REFERENCES
    assert "not-available-here" not in run_cli("config", "show", "--config", config).stdout


def test_serve_still_needs_every_secret(tmp_path: Path) -> None:
    config = write_config(tmp_path, free_port())
    config.write_text(config.read_text() + SECRETS)

    served = run_cli("serve", "--config", config)

    assert served.returncode == 78
    assert "PUBLISH_SECRET is not set" in served.stderr


@pytest.mark.parametrize("token", [TOKEN, "env:OUR_TOKEN", "file:token.txt"])
def test_url_and_token_need_no_configuration(tmp_path: Path, tasks: FakeService, token: str) -> None:
    (tmp_path / "token.txt").write_text(TOKEN + "\n")
    (tmp_path / "config.toml").write_text("this is [not TOML")

    arguments = ("tasks", "list", "--url", tasks.url, "--token", token)
    listed = run_cli(*arguments, cwd=tmp_path, env={"OUR_TOKEN": TOKEN})

    assert (listed.returncode, listed.stderr) == (0, "")
    assert "tsk_one" in listed.stdout


def test_url_and_token_may_come_from_the_environment(tmp_path: Path, tasks: FakeService) -> None:
    env = {"KLING_RECEIVER_URL": tasks.url, "KLING_RECEIVER_TOKEN": TOKEN}

    assert "tsk_one" in run_cli("tasks", "list", cwd=tmp_path, env=env).stdout
    other = run_cli("tasks", "list", "--url", "http://127.0.0.1:1", cwd=tmp_path, env=env)
    assert other.returncode == 1
    assert "No service answers at http://127.0.0.1:1." in other.stderr


def test_a_configuration_option_outweighs_url_and_token_of_the_environment(tmp_path: Path, tasks: FakeService) -> None:
    env = {"KLING_RECEIVER_URL": "http://127.0.0.1:1", "KLING_RECEIVER_TOKEN": "another"}

    assert run_cli("tasks", "list", "--config", write_config(tmp_path, tasks.port), env=env).returncode == 0


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--url", "tasks.example.com"), "--url 'tasks.example.com' is not a URL."),
        (("--token", "env:NOT_SET_HERE"), "--token: the environment variable NOT_SET_HERE is not set"),
    ],
)
def test_a_wrong_url_or_token_reference_is_a_usage_error(tmp_path: Path, options: list[str], reason: str) -> None:
    refused = run_cli("routes", "list", *options, cwd=tmp_path)

    assert refused.returncode == 2
    assert reason in refused.stderr


def test_kling_receiver_toml_is_preferred_to_config_toml(tmp_path: Path, tasks: FakeService) -> None:
    write_config(tmp_path, tasks.port).rename(tmp_path / "kling-receiver.toml")
    (tmp_path / "config.toml").write_text('baseURL = "https://blog.example"\n')

    listed = run_cli("tasks", "list", cwd=tmp_path)

    assert (listed.returncode, listed.stderr) == (0, "")


def test_a_config_file_of_another_program_is_skipped_with_a_warning(tmp_path: Path, tasks: FakeService) -> None:
    home = tmp_path / "home" / "kling-receiver"
    home.mkdir(parents=True)
    write_config(home, tasks.port)
    (tmp_path / "config.toml").write_text('baseURL = "https://blog.example"\n[params]\nauthor = "anna"\n')
    env = {"XDG_CONFIG_HOME": str(home.parent)}

    listed = run_cli("tasks", "list", cwd=tmp_path, env=env)
    checked = run_cli("config", "check", cwd=tmp_path, env=env)

    assert listed.returncode == checked.returncode == 0
    for errors in (listed.stderr, checked.stderr):
        assert "config.toml in this folder is skipped: it has no table of kling-receiver" in errors


def test_a_config_file_of_the_receiver_with_an_error_is_not_skipped(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('[kling]\nkey = "x"\n')

    assert "config.toml:2: kling.key: unknown key" in run_cli("config", "check", cwd=tmp_path).stderr
