"""A command loads what it needs and no more, so that it is over in a fraction of a second."""

import subprocess
import sys
from pathlib import Path

import pytest
from harness.fake_api import FakeService, make_delivery, make_event, make_task
from harness.run_cli import clean_environment

from receiver.cli.run_service import plain_options
from receiver.domain.errors import ConfigurationError
from receiver.settings import load
from receiver.settings.client import load_client

HEAVY = {
    "pydantic",
    "httpx2",
    "httpcore2",
    "anyio",
    "rich",
    "receiver.store",
    "receiver.service",
    "sqlite3",
    "markdown_it",
}
UNUSED_BY_SERVICE = {
    "cyclopts",
    "rich",
    "httpx2",
    "jwt",
    "prometheus_client",
    "aiobotocore",
    "jinja2",
    "markdown_it",
    "click",  # of uvicorn's command line
    "logging.config",  # of uvicorn's configuration
    "socketserver",
    "configparser",
    "multiprocessing",
    "greenlet",
    "importlib.metadata",  # finds plugins of pydantic
    "importlib.resources",
    "difflib",
    "statistics",
    "receiver.web.openapi.document",
    "receiver.domain.api_schema.events",
    "receiver.kling.simulator",
    "receiver.web.console.page_routes",
    "receiver.web.console.filters",
    "receiver.archive.s3",
    "receiver.service.open_telemetry",
    "receiver.service.nodes.node",
    "receiver.store.postgres",
    "encodings.idna",
}
WITH_DATACLASSES = {
    "receiver.delivery.lane",
    "receiver.delivery.retry",
    "receiver.kling.client",
    "receiver.kling.endpoints",
    "receiver.kling.pass_through",
    "receiver.settings.fields",
    "receiver.web.console.job_form",
    "receiver.web.request_types",
}
"""Annotations of pydantic's types, and values whose secrets the repr must leave out."""
RUN = "import sys; from receiver.cli import main; code = main(sys.argv[1:]); print(*sys.modules); sys.exit(code)"


@pytest.fixture
def filled(service: FakeService) -> FakeService:
    service.answer("/api/tasks", {"items": [make_task()], "next": None})
    service.answer("/api/tasks/tsk_one", make_task(state="succeed"))
    service.answer("/api/events", {"items": [make_event()], "next": None})
    service.answer("/api/deliveries", {"items": [make_delivery()], "next": None})
    service.answer("/api/routes", {"items": [], "next": None})
    return service


@pytest.mark.parametrize(
    "command",
    ["tasks list", "tasks show tsk_one", "tasks wait tsk_one", "events list", "deliveries list", "routes list"],
)
@pytest.mark.usefixtures("filled")
def test_a_command_that_talks_to_the_service_loads_none_of_its_parts(config: Path, command: str) -> None:
    argv = [sys.executable, "-c", RUN, *command.split(), "--config", str(config)]
    ended = subprocess.run(argv, env=clean_environment(), capture_output=True, text=True, check=True)

    assert HEAVY & set(ended.stdout.splitlines()[-1].split()) == set()


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"KLING_RECEIVER__ADMIN__LISTEN": "[::1]:9", "KLING_RECEIVER__STORE__URL": "sqlite:/srv/a.db"},
        {"KLING_RECEIVER__ADMIN": '{"token": "env:TOKEN"}', "TOKEN": "t"},
        {"KLING_RECEIVER__ADMIN": '{token = "a"}', "KLING_RECEIVER__ADMIN__TOKEN": "b"},
        {"KLING_RECEIVER__KLING__DIALECT": "gateway"},
    ],
)
def test_a_client_reads_its_settings_as_the_service_does(tmp_path: Path, environ: dict[str, str]) -> None:
    config = tmp_path / "config.toml"
    config.write_text('[admin]\nlisten = "0.0.0.0:8801"\n')
    client, service = load_client(config, environ), load(config, environ).settings

    assert (client.listen, client.token) == (service.admin.listen, service.admin.token)
    assert (client.store, client.data_dir, client.dialect) == (
        service.store.url,
        service.data_dir,
        service.kling.dialect,
    )


@pytest.mark.parametrize(
    ("text", "environ", "faults"),
    [
        (
            '[store]\nurl = "mysql:x"\n[admin]\nlisten = 8701\n',
            {},
            ["config.toml:2: store.url: ", "config.toml:4: admin.listen: must be text in quotes, not a number"],
        ),
        ('admin = "here"\n', {}, ["config.toml:1: admin: must be one section; start it with [admin]"]),
        ("", {"KLING_RECEIVER__ADMIN": "[listen"}, ["KLING_RECEIVER__ADMIN: admin: is neither JSON nor a TOML value"]),
        (
            "",
            {"KLING_RECEIVER__KLING__DIALECT": "offcial"},
            ['kling.dialect: "offcial" is not a valid choice; did you'],
        ),
    ],
)
def test_an_error_in_a_clients_settings_names_its_place(
    tmp_path: Path, text: str, environ: dict[str, str], faults: list[str]
) -> None:
    config = tmp_path / "config.toml"
    config.write_text(text)

    with pytest.raises(ConfigurationError) as caught:
        load_client(config, environ)

    assert len(caught.value.faults) == len(faults)
    assert all(start in fault for start, fault in zip(faults, caught.value.faults, strict=True))


@pytest.mark.parametrize(
    ("argv", "options"),
    [
        ("serve", (None, None)),
        ("serve --config a.toml", (Path("a.toml"), None)),
        ("serve --log-level debug --config a.toml", (Path("a.toml"), "debug")),
        ("serve --help", None),
        ("serve --config", None),
        ("serve --config=a.toml", None),
        ("serve --log-level loud", None),
        ("serve --config a.toml --config b.toml", None),
        ("serve --config --log-level", None),
        ("serve now", None),
        ("tasks list", None),
        ("", None),
    ],
)
def test_only_a_plain_serve_starts_without_the_parser(argv: str, options: object) -> None:
    assert plain_options(argv.split()) == options


def test_the_service_defines_few_dataclasses_when_it_starts() -> None:
    """Each takes 0.3 ms of the start and 13 KiB; a struct takes a fortieth of the time and a fifth of the memory."""
    code = """
import dataclasses
define, own = dataclasses._process_class, []
def watch(cls, *options):
    own.append(cls.__module__)
    return define(cls, *options)
dataclasses._process_class = watch
import receiver.cli.run_service, receiver.service.logs, receiver.service.bootstrap
print(*{name for name in own if name.startswith("receiver") and "api_schema" not in name})
"""
    ended = subprocess.run([sys.executable, "-c", code], env=clean_environment(), capture_output=True, check=True)

    assert set(ended.stdout.decode().split()) <= WITH_DATACLASSES


def test_the_service_loads_no_parser_and_nothing_that_only_some_requests_need(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text("")
    code = f"""
import sys
from pathlib import Path
from receiver.cli.run_service import leave_out_unused_modules
leave_out_unused_modules()
import receiver.service.logs, receiver.service.bootstrap, receiver.settings
receiver.settings.load(Path({str(config)!r}))
print(*(name for name, module in sys.modules.items() if module))
"""
    ended = subprocess.run([sys.executable, "-c", code], env=clean_environment(), capture_output=True, check=True)

    assert UNUSED_BY_SERVICE & set(ended.stdout.decode().split()) == set()


def test_modules_that_the_service_leaves_out_of_uvicorn_can_still_be_loaded() -> None:
    code = """
from receiver.cli.run_service import leave_out_unused_modules
leave_out_unused_modules()
import configparser, logging.config
print(configparser.RawConfigParser().sections(), logging.config.dictConfig.__name__)
"""
    ended = subprocess.run([sys.executable, "-c", code], env=clean_environment(), capture_output=True, check=True)

    assert ended.stdout.decode() == "[] dictConfig\n"
