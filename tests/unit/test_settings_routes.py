"""Routes: a name, a condition, exactly one destination, and the retries."""

from datetime import timedelta
from pathlib import Path

import pytest
from harness.settings_files import WEBHOOK, config_error, load_route, load_text, route_text

from receiver.settings import Rate


def test_a_route_needs_only_a_name_and_a_destination(tmp_path: Path) -> None:
    route = load_route(tmp_path, "")

    assert route.name == "a"
    assert route.on == {"succeed"}
    assert route.endpoints == ()
    assert route.where is None
    assert route.script is None
    assert route.unverified is False
    assert route.concurrency == 8
    assert route.rate is None
    assert [wait.total_seconds() for wait in route.retry] == [5, 30, 120, 600, 1800, 3600]
    assert route.give_up_after == timedelta(hours=96)
    assert route.webhook is not None
    assert route.webhook.secret == ()
    assert route.webhook.headers == {}
    assert route.webhook.timeout == timedelta(seconds=15)
    assert route.webhook.payload == "event"


def test_a_script_needs_only_a_command(tmp_path: Path) -> None:
    (route,) = load_text(tmp_path, '[[routes]]\nname = "a"\nscript = { command = ["true"] }').settings.routes

    assert route.script is not None
    assert route.script.command == ("true",)
    assert route.script.timeout == timedelta(minutes=5)
    assert route.script.cwd is None
    assert route.script.env == {}
    assert route.script.output_limit == 64 * 1024


def test_a_route_accepts_every_key(tmp_path: Path) -> None:
    route = load_route(
        tmp_path,
        """
on = ["failed", "alert", "*"]
endpoints = ["images/*", "videos/text2video"]
where = "task.tags.project == 'ads'"
unverified = true
concurrency = 1000
rate = "10/s"
retry = ["1s"]
give_up_after = "1h"
""",
    )

    assert route.on == {"failed", "alert", "*"}
    assert route.endpoints == ("images/*", "videos/text2video")
    assert route.where == "task.tags.project == 'ads'"
    assert route.unverified is True
    assert route.concurrency == 1000
    assert route.rate == Rate(10, timedelta(seconds=1))
    assert route.retry == (timedelta(seconds=1),)
    assert route.give_up_after == timedelta(hours=1)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('on = ["succeeded"]', 'routes.0.on.0: "succeeded" is not an event kind; did you mean "succeed"?'),
        ('on = ["zzz"]', 'routes.0.on.0: "zzz" is not an event kind; expected: "submitted", "processing", '),
        ("on = []", "routes.0.on: must not be empty"),
        ("on = [1]", "routes.0.on.0: must be text in quotes"),
        ("on = 1", "routes.0.on: must be a list"),
        ('endpoints = ["/v1/images/*"]', 'routes.0.endpoints.0: must not begin with /v1/; write "images/*"'),
        ('endpoints = ["v1/images/*"]', 'routes.0.endpoints.0: must not begin with /v1/; write "images/*"'),
        ('endpoints = ["images"]', 'routes.0.endpoints.0: "images" matches no endpoint; write "images/*"'),
        ('endpoints = [""]', "routes.0.endpoints.0: must be an endpoint or a glob"),
        ("where = \"a = 'b'\"", "routes.0.where: is not a JMESPath expression: equality is written =="),
        ("where = 1", "routes.0.where: must be text in quotes"),
        ("unverified = 1", "routes.0.unverified: must be true or false"),
        ("concurrency = 0", "routes.0.concurrency: must be 1 to 1000"),
        ("concurrency = 1001", "routes.0.concurrency: must be 1 to 1000"),
        ('concurrency = "8"', "routes.0.concurrency: must be a whole number without quotes"),
        ("concurrency = true", "routes.0.concurrency: must be a whole number without quotes"),
        ('rate = "often"', "routes.0.rate: must be a rate such as"),
        ("retry = []", "routes.0.retry: must not be empty; remove the key to use the default"),
        ('retry = ["5s", "x"]', 'routes.0.retry.1: "x" is not a duration'),
        ('retry = ["0s"]', "routes.0.retry.0: must be"),
        ("give_up_after = 96", 'routes.0.give_up_after: has no unit; write it like "96s"'),
        ('conditions = ""', 'routes.0.conditions: unknown key; expected: "name", "on"'),
        (
            'script = { command = ["true"] }',
            "routes.0.script: is given together with webhook; a route has only one of them",
        ),
    ],
)
def test_an_invalid_route_is_reported_by_line_and_key(text: str, fault: str, tmp_path: Path) -> None:
    assert config_error(tmp_path, route_text(text)).startswith(f"config.toml:4: {fault}")


@pytest.mark.parametrize("name", ["", "A", "a b", "a.b", "reply:host", "ä", "a" * 65])
def test_a_route_name_is_short_and_plain(name: str, tmp_path: Path) -> None:
    error = config_error(tmp_path, f'[[routes]]\nname = "{name}"\n{WEBHOOK}')

    assert error.startswith("config.toml:2: routes.0.name: ")
    assert "use a-z, 0-9, _ and -" in error


def test_route_names_are_unique_even_beside_other_errors(tmp_path: Path) -> None:
    text = f'[[routes]]\nname = "a"\n{WEBHOOK}[[routes]]\nname = "a"\n{WEBHOOK}'

    assert config_error(tmp_path, text) == (
        'config.toml:5: routes.1.name: "a" is already used by an earlier route; each route needs its own name'
    )


def test_the_next_load_may_use_the_same_names(tmp_path: Path) -> None:
    assert load_text(tmp_path, route_text("")).settings == load_text(tmp_path, route_text("")).settings


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (
            'name = "a"\n',
            "config.toml:1: routes.0.notify: is missing, and so are webhook and script; add a destination",
        ),
        (WEBHOOK, "config.toml:1: routes.0.name: is missing: Name of the route"),
        ('name = "a"\nwebhook = {}\n', "config.toml:3: routes.0.webhook.url: is missing: The URL to send to"),
        ('name = "a"\nwebhook = "https://h"\n', "config.toml:3: routes.0.webhook: must be a table, such as"),
        (
            'name = "a"\nwebhook = { url = "https://h", urll = 1 }\n',
            "config.toml:3: routes.0.webhook.urll: unknown key; ",
        ),
        ('name = "a"\nwebhook = { url = "https://h", payload = "raw" }\n', "config.toml:3: routes.0.webhook.payload: "),
        (
            'name = "a"\nwebhook = { url = "https://h", timeout = "1h" }\n',
            "config.toml:3: routes.0.webhook.timeout: must",
        ),
        (
            'name = "a"\nwebhook = { url = "https://h", headers = 1 }\n',
            "config.toml:3: routes.0.webhook.headers: must be",
        ),
        (
            'name = "a"\nwebhook = { url = "http://169.254.169.254/" }\n',
            "config.toml:3: routes.0.webhook.url: points to",
        ),
        ('name = "a"\nscript = {}\n', "config.toml:3: routes.0.script.command: is missing: The program"),
        (
            'name = "a"\nscript = { command = "a | b" }\n',
            "config.toml:3: routes.0.script.command: must be a list, because",
        ),
        ('name = "a"\nscript = { command = [] }\n', "config.toml:3: routes.0.script.command: must not be empty"),
        ('name = "a"\nscript = { command = [""] }\n', "config.toml:3: routes.0.script.command.0: has no program"),
        ('name = "a"\nscript = { command = ["a", 1] }\n', "config.toml:3: routes.0.script.command.1: must be text in"),
        ('name = "a"\nscript = { command = ["a\\u0000"] }\n', "config.toml:3: routes.0.script.command.0: contains NUL"),
        (
            'name = "a"\nscript = { command = ["a"], output_limit = "1GB" }\n',
            "config.toml:3: routes.0.script.output_limit",
        ),
        ("name = 1\n" + WEBHOOK, "config.toml:2: routes.0.name: must be text in quotes"),
    ],
)
def test_an_invalid_destination_is_reported_by_line_and_key(text: str, fault: str, tmp_path: Path) -> None:
    assert config_error(tmp_path, f"[[routes]]\n{text}").startswith(fault)


def test_a_program_with_a_slash_is_relative_to_the_configuration(tmp_path: Path) -> None:
    def command(name: str) -> tuple[str, ...]:
        text = f'[[routes]]\nname = "a"\nscript = {{ command = ["{name}", "./x", "~"], cwd = "in" }}'
        (route,) = load_text(tmp_path, text, {"HOME": "/home/one"}).settings.routes
        assert route.script is not None
        assert route.script.cwd == tmp_path / "in"
        return route.script.command

    assert command("bin/publish") == (f"{tmp_path}/bin/publish", "./x", "~")
    assert command("~/publish") == ("/home/one/publish", "./x", "~")
    assert command("/usr/bin/env") == ("/usr/bin/env", "./x", "~")
    assert command("env") == ("env", "./x", "~")


@pytest.mark.parametrize(
    ("script", "warning"),
    [
        ('command = ["./none"]', "none is not a file; every attempt would fail"),
        ('command = ["./plain"]', "plain cannot be run; make it executable (chmod +x)"),
        ('command = ["no-such-program-anywhere"]', "no-such-program-anywhere cannot be run; write its absolute path"),
        ('command = ["/bin/sh"], cwd = "none"', "none is not a folder; every attempt would fail"),
    ],
)
def test_a_script_that_would_never_run_is_a_warning(script: str, warning: str, tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    text = f'[[routes]]\nname = "a"\nscript = {{ {script} }}'

    (found,) = load_text(tmp_path, text, {"KLING_API_KEY": "k"}).warnings

    assert found.startswith(f"{tmp_path}/config.toml:3: routes.0.script.")
    assert found.endswith(warning)


def test_a_condition_that_compares_with_a_key_is_a_warning(tmp_path: Path) -> None:
    text = route_text("where = 'task.label == \"ads\"'")

    (warning,) = load_text(tmp_path, text, {"KLING_API_KEY": "k"}).warnings

    assert 'config.toml:4: routes.0.where: compares with a "word" in double quotes' in warning


@pytest.mark.parametrize("operator", ["==", "!="])
def test_a_condition_that_compares_with_text_without_quotes_is_a_warning(tmp_path: Path, operator: str) -> None:
    text = route_text(f'where = "status && task.tags.project {operator} ads"')

    (warning,) = load_text(tmp_path, text, {"KLING_API_KEY": "k"}).warnings

    assert "config.toml:4: routes.0.where: compares with ads, which JMESPath reads as a key" in warning


@pytest.mark.parametrize("where", ["task.label == 'ads'", "kling.task_status == status", "'ads' == task.label", "task"])
def test_a_condition_on_text_or_members_causes_no_warning(tmp_path: Path, where: str) -> None:
    assert load_text(tmp_path, route_text(f'where = "{where}"'), {"KLING_API_KEY": "k"}).warnings == ()


def test_a_route_that_never_matches_its_batches_is_a_warning(tmp_path: Path) -> None:
    text = route_text('on = ["batch"]\nendpoints = ["images/*"]')

    (warning,) = load_text(tmp_path, text, {"KLING_API_KEY": "k"}).warnings

    assert "config.toml:5: routes.0.endpoints: never matches batches" in warning


def test_headers_over_plain_http_are_a_warning(tmp_path: Path) -> None:
    text = '[[routes]]\nname = "a"\nwebhook = { url = "http://app.example.com", headers = { a = "b" } }'

    (warning,) = load_text(tmp_path, text, {"KLING_API_KEY": "k"}).warnings

    assert "routes.0.webhook.url: is plain http to another machine" in warning


def test_a_report_has_no_endpoint(tmp_path: Path) -> None:
    loaded = load_text(tmp_path, route_text('on = ["report"]\nendpoints = ["images/*"]'))

    assert "routes.0.endpoints: never matches reports, which have no endpoint" in " ".join(loaded.warnings)
