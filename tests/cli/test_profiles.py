"""Profiles: commands and programs choose a service by its name in the user's own configuration."""

import json
from pathlib import Path

import pytest
from cli.conftest import write_config
from harness.fake_api import TOKEN, FakeService, make_task
from harness.ports import free_port
from harness.run_cli import run_cli

from receiver.client import Client
from receiver.domain.errors import ConfigurationError, ServiceUnreachable

NOWHERE = "http://127.0.0.1:1"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return a folder for the user's configuration."""
    (tmp_path / "home" / "kling-receiver").mkdir(parents=True)
    return tmp_path / "home"


def write_profiles(home: Path, text: str) -> Path:
    path = home / "kling-receiver" / "profiles.toml"
    path.write_text(text)
    path.chmod(0o600)
    return path


@pytest.fixture
def tasks(service: FakeService) -> FakeService:
    service.answer("/api/tasks", {"items": [make_task()], "next": None})
    return service


@pytest.mark.parametrize("token", [TOKEN, "env:OFFICE_TOKEN", "file:token.txt"])
@pytest.mark.parametrize("by_variable", [False, True])
def test_a_profile_selects_its_service(home: Path, tasks: FakeService, token: str, *, by_variable: bool) -> None:
    write_profiles(home, f'[home]\nurl = "{NOWHERE}"\n[office]\nurl = "{tasks.url}/"\ntoken = "{token}"\n')
    (home / "kling-receiver" / "token.txt").write_text(f"{TOKEN}\n")
    env = {"XDG_CONFIG_HOME": str(home), "OFFICE_TOKEN": TOKEN}
    env |= {"KLING_RECEIVER_PROFILE": "office"} if by_variable else {}

    listed = run_cli("tasks", "list", *([] if by_variable else ["--profile", "office"]), cwd=home, env=env)

    assert (listed.returncode, listed.stderr) == (0, "")
    assert "tsk_one" in listed.stdout


@pytest.mark.parametrize(
    ("options", "more"),
    [
        (["--url", "URL", "--token", TOKEN], {}),
        (["--profile", "office"], {"KLING_RECEIVER_PROFILE": "nowhere"}),
        (["--profile", "office"], {"KLING_RECEIVER_URL": NOWHERE, "KLING_RECEIVER_TOKEN": "another"}),
        (["--profile", "nowhere", "--url", "URL", "--token", TOKEN], {}),
        (["--config", "CONFIG"], {}),
        ([], {"KLING_RECEIVER_URL": "URL", "KLING_RECEIVER_TOKEN": TOKEN}),
        ([], {"KLING_RECEIVER_PROFILE": "office"}),
        ([], {"KLING_RECEIVER_PROFILE": "no-token", "KLING_RECEIVER_TOKEN": TOKEN}),
    ],
)
def test_the_most_explicit_choice_of_a_service_counts(
    home: Path, tasks: FakeService, options: list[str], more: dict[str, str]
) -> None:
    write_profiles(
        home,
        f'[nowhere]\nurl = "{NOWHERE}"\ntoken = "x"\n[office]\nurl = "{tasks.url}"\ntoken = "{TOKEN}"\n'
        f'[no-token]\nurl = "{tasks.url}"\n',
    )
    config = write_config(home, tasks.port)
    words = {"URL": tasks.url, "CONFIG": str(config)}
    env = {"XDG_CONFIG_HOME": str(home), "KLING_RECEIVER_PROFILE": "nowhere"}
    env |= {name: words.get(value, value) for name, value in more.items()}

    listed = run_cli("tasks", "list", *(words.get(option, option) for option in options), cwd=home / "..", env=env)

    assert (listed.returncode, listed.stderr) == (0, "")


@pytest.mark.parametrize(
    ("text", "code", "reason"),
    [
        ('[office]\nurl = "https://a.example"\n', 78, 'there is no profile "offce"; did you mean "office"?'),
        ("", 78, 'there is no profile "offce"; add it: [offce] with url'),
        ('offce = "https://a.example"\n', 78, "profiles.toml:1: offce: must be a table; start it with [offce]"),
        ('[offce]\ntoken = "t"\n', 78, 'offce.url: is missing; write url = "https://tasks.example.com"'),
        ('[offce]\nurl = "a.example"\n', 78, 'profiles.toml:2: offce.url: must begin with "https://"'),
        (
            '[offce]\nurl = "https://a.example"\nadress = 1\n',
            78,
            "profiles.toml:3: offce.adress: unknown key; expected",
        ),
        (
            '[offce]\nurl = "https://a.example"\ntoken = "env:NOT_SET"\n',
            78,
            "the environment variable NOT_SET is not set",
        ),
        ('[offce]\nurl = "https://a.example"\n', 1, "The profile 'offce' has no token. Add one to it"),
        ("this is [not TOML", 78, "profiles.toml:1: is not TOML"),
    ],
)
def test_an_invalid_or_unknown_profile_is_an_error_with_its_place(
    home: Path, text: str, code: int, reason: str
) -> None:
    write_profiles(home, text)

    refused = run_cli("tasks", "list", "--profile", "offce", cwd=home, env={"XDG_CONFIG_HOME": str(home)})

    assert refused.returncode == code
    assert reason in refused.stderr


def test_a_profile_and_a_configuration_contradict_each_other(home: Path) -> None:
    refused = run_cli("tasks", "list", "--profile", "a", "--config", "b", cwd=home)

    assert (refused.returncode, refused.stdout) == (2, "")
    assert "--profile and --config name two services." in refused.stderr


def test_the_list_of_profiles_shows_token_sources_but_no_token(home: Path) -> None:
    path = write_profiles(
        home,
        '[office]\nurl = "https://a.example"\ntoken = "a-token-of-the-office"\n'
        '[server]\nurl = "https://b.example"\ntoken = "env:SERVER"\ndialect = "gateway"\n',
    )
    path.chmod(0o644)
    env = {"XDG_CONFIG_HOME": str(home), "KLING_RECEIVER_PROFILE": "server"}

    listed = run_cli("profiles", "list", "--json", cwd=home, env=env)

    assert listed.returncode == 0
    assert json.loads(listed.stdout) == {
        "file": str(path),
        "items": [
            {"name": "office", "url": "https://a.example", "token": "***", "dialect": "official", "used": False},
            {"name": "server", "url": "https://b.example", "token": "env:SERVER", "dialect": "gateway", "used": True},
        ],
    }
    assert f"Other users can read the tokens in {path}." in listed.stderr


def test_a_submit_uses_the_dialect_of_its_profile(home: Path, service: FakeService, tmp_path: Path) -> None:
    service.answer("/api/tasks", make_task())
    write_profiles(home, f'[office]\nurl = "{service.url}"\ntoken = "{TOKEN}"\ndialect = "gateway"\n')
    arguments = ("submit", "images/multi-image2image", "--image", "https://example.com/a.png", "--profile", "office")

    submitted = run_cli(*arguments, cwd=tmp_path, env={"XDG_CONFIG_HOME": str(home)})

    assert submitted.returncode == 0, submitted.stderr
    assert service.requests[-1][2]["body"]["subject_image_list"] == ["https://example.com/a.png"]


def test_the_python_client_uses_profiles(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_profiles(home, f'[office]\nurl = "{NOWHERE}"\ntoken = "t"\n[bare]\nurl = "{NOWHERE}"\n')
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home))

    assert Client(profile="office").url == NOWHERE
    with pytest.raises(ConfigurationError, match="there is no profile"):
        Client(profile="none")
    with pytest.raises(ServiceUnreachable, match="has no token"):
        Client(profile="bare")
    monkeypatch.setenv("KLING_RECEIVER_PROFILE", "office")
    assert Client().url == NOWHERE
    assert Client(f"http://127.0.0.1:{free_port()}", "t").url != NOWHERE
