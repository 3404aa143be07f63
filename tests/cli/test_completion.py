"""What the shells propose: states, endpoints, routes, batches and ids, also while the service is down."""

import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

import pytest
from cli.conftest import write_config
from harness.fake_api import FakeService, make_delivery, make_event, make_task
from harness.ports import free_port
from harness.run_cli import clean_environment, run_cli

import receiver.cli
from receiver.cli.completion_table import completion_table
from receiver.cli.fast_completion import find_place

ROUTES = '\n[[routes]]\nname = "publish"\nscript = { command = ["/bin/true"] }\n[[routes]]\nname = "archive-it"\n'


@pytest.fixture
def filled(service: FakeService) -> FakeService:
    service.answer("/api/tasks", {"items": [make_task(label="spring")], "next": None})
    service.answer("/api/batches", {"items": [{"name": "b1", "state": "open"}], "next": None})
    service.answer("/api/events", {"items": [make_event()], "next": None})
    service.answer("/api/deliveries", {"items": [make_delivery()], "next": None})
    service.answer("/api/routes", {"items": [{"name": "publish"}, {"name": "chat"}], "next": None})
    return service


def proposals(line: str, config: Path) -> dict[str, str]:
    """Return the proposals for the end of a line, with their descriptions."""
    ended = run_cli("__complete", *shlex.split(line), "", env={"KLING_RECEIVER_CONFIG": str(config)})
    assert (ended.returncode, ended.stderr) == (0, "")
    lines = [each for each in ended.stdout.splitlines() if each and not each.startswith("\x1f")]  # no directives
    return {value: text for value, _, text in (each.partition("\t") for each in lines)}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("tasks list --state", {"queued": "", "succeed": "", "cancelled": ""}),
        ("tasks list --endpoint", {"images/multi-image2image": ""}),
        ("submit", {"videos/text2video": ""}),
        ("tasks show", {"tsk_one": "processing images/multi-image2image spring"}),
        ("tasks cancel tsk_one", {"tsk_one": "processing images/multi-image2image spring"}),
        ("explain", {"tsk_one": "processing images/multi-image2image spring"}),
        ("batches show", {"b1": "open"}),
        ("tasks list --batch", {"b1": "open"}),
        ("batches list --state", {"open": "", "finished": ""}),
        ("events show", {"evt_one": "task.succeed"}),
        ("events list --type", {"task.failed": ""}),
        ("deliveries show", {"dlv_one": "dead publish"}),
        ("deliveries list --status", {"dead": ""}),
        ("routes hold", {"publish": "", "chat": ""}),
        ("replay --to-route", {"publish": "", "chat": ""}),
        ("listen --on", {"succeed": "", "alert": ""}),
        ("tasks cost --by", {"tag:": "", "day": ""}),
    ],
)
@pytest.mark.usefixtures("filled")
def test_a_value_is_proposed(config: Path, line: str, expected: dict[str, str]) -> None:
    assert expected.items() <= proposals(line, config).items()


def test_values_that_need_no_service_are_proposed_while_it_is_down(tmp_path: Path) -> None:
    config = write_config(tmp_path, free_port())
    config.write_text(config.read_text() + ROUTES)

    assert "failed" in proposals("tasks list --state", config)
    assert "images/generations" in proposals("submit", config)
    assert set(proposals("routes hold", config)) == {"publish", "archive-it"}
    assert proposals("tasks show", config) == {}


@pytest.mark.parametrize("text", ["this is [not TOML", '[admin]\nlisten = "here"\n'])
def test_a_broken_configuration_proposes_nothing_and_prints_nothing(tmp_path: Path, text: str) -> None:
    config = tmp_path / "config.toml"
    config.write_text(text)

    assert proposals("routes hold", config) == proposals("tasks show", config) == {}


def test_completion_does_not_wait_for_a_hanging_service(tmp_path: Path, silent_port: int) -> None:
    began = perf_counter()

    assert proposals("tasks show", write_config(tmp_path, silent_port)) == {}
    assert perf_counter() - began < 10


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["tasks", "list", "--state", "su"], ["submitting", "submitted", "succeed"]),
        (["routes", "hold", "p"], ["publish"]),
        (["tasks", "w"], ["wait", "watch"]),
    ],
)
@pytest.mark.usefixtures("filled")
def test_bash_completes_a_line(config: Path, tmp_path: Path, words: Sequence[str], expected: Sequence[str]) -> None:
    script = tmp_path / "completion.bash"
    script.write_text(run_cli("completion", "bash").stdout)
    line = ["kling-receiver", *words]
    bash_program = (
        f"source {script}; COMP_WORDS=({shlex.join(line)}); COMP_CWORD={len(words)}; COMP_LINE='{shlex.join(line)}'; "
        "COMP_POINT=${#COMP_LINE}; function=$(complete -p kling-receiver | sed 's/.*-F \\([^ ]*\\).*/\\1/'); "
        "$function; printf '%s\\n' \"${COMPREPLY[@]}\""
    )
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    env = clean_environment(PATH=path, KLING_RECEIVER_CONFIG=str(config))
    ended = subprocess.run(
        ["/bin/bash", "-c", bash_program], env=env, capture_output=True, text=True, check=True, timeout=60
    )

    assert [each.strip() for each in ended.stdout.splitlines()] == expected


def test_the_completion_table_matches_the_commands() -> None:
    table = Path(receiver.cli.__file__).with_name("completion.json")

    assert table.read_text() == completion_table(), "run `make fmt`"


@pytest.mark.parametrize(
    ("line", "kind", "given"),
    [
        ("tasks list --state", "states", {}),
        ("tasks list --json --state queued --state", "states", {"--state": "queued"}),
        ("tasks show", "tasks", {}),
        ("tasks cancel tsk_1 tsk_2", "tasks", {}),
        ("events show --url http://x:1 --token t", "events", {"--url": "http://x:1", "--token": "t"}),
        ("batches export b1 --to", None, None),  # a folder
        ("tasks show tsk_1", None, None),  # it takes one
        ("tasks list --label", None, None),
        ("tasks list --state=queued --batch", None, None),
        ("tasks list --nonsense", None, None),
        ("nonsense", None, None),
        ("", None, None),
    ],
)
def test_the_value_to_complete_is_found_without_the_parser(
    line: str, kind: str | None, given: dict[str, str] | None
) -> None:
    place = find_place([*line.split(), ""], json.loads(completion_table()))

    assert (kind, given) == (None, None) if place is None else (place[0], place[1].given) == (kind, given)


@pytest.mark.parametrize("line", ["tasks list --state", "submit", "tasks show", "routes hold", "events list --task"])
@pytest.mark.usefixtures("filled")
def test_a_proposal_loads_neither_a_parser_nor_a_client(config: Path, line: str) -> None:
    program = (
        "import sys; from receiver.cli import main; main(sys.argv[1:]); "
        "print(*[each for each in ('cyclopts', 'rich', 'pydantic', 'httpx2') if each in sys.modules])"
    )
    env = clean_environment(KLING_RECEIVER_CONFIG=str(config))
    command = [sys.executable, "-c", program, "__complete", *line.split(), ""]
    ended = subprocess.run(command, env=env, capture_output=True, text=True, check=True, timeout=60)

    *_, proposal, loaded = ended.stdout.split("\n")[:-1]
    assert (bool(proposal), loaded) == (True, "")


@pytest.mark.usefixtures("filled")
def test_the_parser_and_the_table_propose_the_same(config: Path) -> None:
    for line in ("tasks list --state", "tasks show", "routes hold", "submit"):
        assert proposals(f"{line} --config={config}", config) == proposals(line, config) != {}  # `=` needs the parser


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_asks_the_program_for_values(shell: str) -> None:
    assert "__complete" in run_cli("completion", shell).stdout
