"""Expected errors: one sentence with a remedy on stderr, an exit code, never a traceback."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cli.conftest import write_config
from harness.fake_api import FakeService, make_task
from harness.ports import free_port
from harness.run_cli import clean_environment, run_cli

from receiver.cli import main


def test_a_stopped_service_is_reported_with_how_to_start_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_config(tmp_path, port := free_port())

    code = main(["tasks", "list", "--config", str(config)])

    assert code == 1
    assert capsys.readouterr().err == (
        f"kling-receiver: No service answers at http://127.0.0.1:{port}. "
        "Start it with `kling-receiver serve`, or pass its configuration with `--config`.\n"
    )


def test_a_missing_admin_token_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_config(tmp_path, free_port())
    (tmp_path / "admin-token").unlink()

    code = main(["tasks", "list", "--config", str(config)])

    assert code == 1
    assert "The service has not run here yet" in capsys.readouterr().err


def test_a_folder_in_place_of_the_token_prevents_the_start(
    tmp_path: Path,
) -> None:
    config = write_config(tmp_path, free_port())
    (tmp_path / "admin-token").unlink()
    (tmp_path / "admin-token").mkdir()

    ended = run_cli("serve", "--config", config, env={"KLING_RECEIVER__PUBLIC__LISTEN": "127.0.0.1:0"})

    assert ended.returncode == 78
    assert f"admin.token: cannot read the token file {tmp_path}/admin-token: Is a directory" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(("content", "reason"), [(None, "Is a directory"), (b"\xff", "it is not UTF-8 text")])
def test_an_unreadable_admin_token_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None, reason: str
) -> None:
    config = write_config(tmp_path, free_port())
    kept = tmp_path / "admin-token"
    kept.unlink()
    if content is None:
        kept.mkdir()
    else:
        kept.write_bytes(content)

    code = main(["tasks", "list", "--config", str(config)])

    assert code == 1
    assert f"The admin token in {kept} cannot be read ({reason})." in capsys.readouterr().err


def test_a_wrong_admin_token_is_reported(
    service: FakeService, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (config.parent / "admin-token").write_text("another")

    code = main(["tasks", "list", "--config", str(config)])

    err = capsys.readouterr().err
    assert code == 1
    assert "rejected the admin token" in err
    assert "another" not in err
    assert service.requests == []


def test_a_refusal_of_the_api_is_printed_unchanged(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["tasks", "show", "tsk_none", "--config", str(config)])

    assert code == 1
    assert capsys.readouterr().err == (
        "kling-receiver: There is no such thing. To list them: `kling-receiver tasks list`.\n"
    )


@pytest.mark.parametrize(
    ("argv", "lists"),
    [
        ("events show evt_none", "events list"),
        ("deliveries show dlv_none", "deliveries list"),
        ("deliveries retry dlv_none", "deliveries list"),
        ("replay show rpl_none", "replay list"),
        ("replay cancel rpl_none", "replay list"),
        ("routes hold none", "routes list"),
        ("routes test none", "routes list"),
    ],
)
def test_an_unknown_id_is_reported_with_the_command_that_lists_them(
    config: Path, capsys: pytest.CaptureFixture[str], argv: str, lists: str
) -> None:
    code = main([*argv.split(), "--config", str(config)])

    assert code == 1
    assert capsys.readouterr().err.endswith(f" To list them: `kling-receiver {lists}`.\n")


def test_another_program_on_the_port_is_recognized(
    service: FakeService, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service.answer("/api/tasks", ["not", "an", "object"])

    code = main(["tasks", "list", "--config", str(config)])

    assert code == 1
    assert "is not a JSON object of this API" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["tusks"], 'Did you mean "tasks"?'),
        (["tasks", "lists"], 'Did you mean "list"?'),
        (["tasks", "show"], "requires an argument"),
        (["tasks", "list", "--jsno"], "Did you mean --json?"),
        (["tasks", "list", "--limit", "many"], "many"),
        (["tasks", "list", "--limit", "501"], "from 1 to 500"),
        (["tasks", "list", "--tag", "novalue"], "--tag key=value"),
        (["tasks", "wait", "tsk_one", "--timeout", "soon"], "--timeout"),
        (["submit", "images/multi-image2image", "--set", "novalue"], "--set"),
        (["submit", "images/multi-image2image", "--body", "[]"], "--body"),
        (["submit", "images/multi-image2image", "--body", "@/does/not/exist"], "Cannot read --body @/does/not/exist"),
        (["submit", "images/multi-image2image", "--image", "/does/not/exist.png"], "does not exist"),
        (["submit", "images/multi-image2image", "--timeout", "5s"], "Add --wait"),
        (["submit", "stories/multi/many"], "endpoint with callbacks"),
        (["events", "list", "--type", "succeed"], "Expected: task.submitted, task.processing, task.succeed"),
        (["events", "list", "--type", "task.succeed,batch"], "--type batch: unknown event type"),
        (["tasks", "watch", "--limit", "0"], "from 1 to 500"),
        (["submit", "audio/tts"], "audio/tts answers at once and sends no callbacks"),
        (["submit", "audio/tts"], "POST /kling/v1/audio/tts"),
        (["callback-url", "--endpoint", "v1/audio/tts"], "POST /kling/v1/audio/tts"),
        (["callback-url", "--endpoint", "stories/multi/many"], "endpoint with callbacks"),
        (["listen", "--forward-to", "no-such-host.invalid"], "the host no-such-host.invalid is unknown"),
        (["listen", "--", "./nosuch"], "/nosuch is not an executable program"),
        (["listen", "--exec", "nosuch --fast"], "nosuch is not an executable program"),
        (["listen", "--on", "succes", "--", "true"], '--on: "succes" is not an event kind; did you mean "succeed"?\n'),
        (["simulate", "--drop", "often"], "--drop must be written like next:2, 30%, 0.3 or always, not 'often'."),
        (["simulate", "--fail", "next:many"], "--fail must be written like next:2, 30%, 0.3 or always, not"),
        (
            ["simulate", "--refuse", "9999:abc"],
            "--refuse must be written like 1303, 1303:3 or 1302:20%, not '9999:abc'",
        ),
        (["simulate", "--refuse-queries", "busy"], "--refuse-queries must be written like 1303, 1303:3"),
        (["simulate", "--delay-by", "soon"], "--delay-by must be a duration like 250ms, 5s or 10m, not 'soon'."),
        (["simulate", "--slow-for", "soon"], "--slow-for must be a duration like"),
        (["simulate", "--slots", "video"], "--slots must be written like video=3"),
    ],
)
def test_an_invalid_argument_is_a_usage_error(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], argv: list[str], words: str
) -> None:
    monkeypatch.setenv("KLING_RECEIVER_CONFIG", str(config))

    code = main(argv)

    out, err = capsys.readouterr()
    assert code == 2
    assert err.startswith("kling-receiver: ")
    assert words in err
    assert out == ""


NO_SUCH_ROUTE = "this route is not in the configuration. Choose one from `kling-receiver routes list`"


@pytest.mark.parametrize(
    "case",
    [
        ("tasks list --state x", "'state' must be one of: queued.", "--state must be one of: queued."),
        ("deliveries list --status x", "'status' must be one of: dead.", "--status must be one of: dead."),
        ("events list --after x", "'after' must be an event's ID.", "--after must be an event's ID."),
        ("replay --status dead --pace x", "'pace': is no rate.", "--pace: is no rate."),
        (
            "replay --from 1h --to 2h",
            "'from' must be before 'to'.",
            "--from must be before --to.",
        ),
        (
            "replay --route x",
            "There is no route 'x' any more. Name a target route with `to_route`.",
            f"--route x: {NO_SUCH_ROUTE}, or set another target with --to-route.",
        ),
        (
            "replay --status dead --to-route x",
            "There is no route 'x' to send to. List the routes with `kling-receiver routes list`.",
            f"--to-route x: {NO_SUCH_ROUTE}.",
        ),
    ],
)
def test_a_refused_option_is_a_usage_error_that_names_it(
    service: FakeService, config: Path, capsys: pytest.CaptureFixture[str], case: tuple[str, str, str]
) -> None:
    typed, refusal, message = case
    argv = typed.split()
    path = "replays" if argv[0] == "replay" else argv[0]
    error = "unknown_route" if "no route" in refusal else "invalid_request"
    service.answer(f"/api/{path}", {"code": error, "detail": refusal}, status=400)

    code = main([*argv, "--config", str(config)])

    assert code == 2
    assert capsys.readouterr().err == f"kling-receiver: {message}\n"


def test_a_replay_without_a_selection_is_a_usage_error(
    service: FakeService, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["replay", "--config", str(config)]) == 2
    assert "--route, --status, --task" in capsys.readouterr().err
    assert service.requests == []


def test_an_invalid_configuration_exits_with_78_and_all_errors(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text('[public]\nlisten = "nowhere"\n[poll]\nafter = "soon"\n')

    ended = run_cli("config", "check", "--config", config)

    assert ended.returncode == 78
    assert "config.toml:2" in ended.stderr
    assert "config.toml:4" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_configuration_errors_can_be_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.toml"
    config.write_text('[kling]\ntimeuot = "30s"\n[poll]\nafter = "a; b"\n')
    monkeypatch.setenv("KLING_RECEIVER__POLL__EVERY", "soon")
    monkeypatch.chdir(tmp_path)

    code = main(["config", "check", "--json", "--config", "config.toml"])

    printed = json.loads(capsys.readouterr().out)
    fix = 'write it like "250ms", "5s", "10m", "24h" or "30d"'
    file = {"file": "config.toml", "variable": None}
    assert code == 78
    assert printed["ok"] is False
    assert [fault for fault in printed["faults"] if fault["key"] != "kling.api_key"] == [
        file | {"line": 2, "key": "kling.timeuot", "message": "unknown key", "fix": 'did you mean "timeout"?'},
        file | {"line": 4, "key": "poll.after", "message": '"a; b" is not a duration', "fix": fix},
        {"file": None, "line": None, "variable": "KLING_RECEIVER__POLL__EVERY"}
        | {"key": "poll.every", "message": '"soon" is not a duration', "fix": fix},
    ]


def test_a_broken_or_missing_file_is_an_error_in_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.toml").write_text("\n[kling\n")
    monkeypatch.chdir(tmp_path)

    codes = [main(["config", "check", "--json", "--config", name]) for name in ("broken.toml", "none.toml")]

    broken, none = capsys.readouterr().out.split("}\n{")
    (printed,) = json.loads(broken + "}")["faults"]
    assert codes == [78, 78]
    assert (printed["file"], printed["line"], printed["key"]) == ("broken.toml", 2, None)
    assert printed["message"].startswith("is not TOML: ")
    assert json.loads("{" + none)["faults"] == [
        {"file": "none.toml", "line": None, "variable": None, "key": None}
        | {"message": "the file does not exist", "fix": "check its path"}
    ]


def test_config_may_precede_the_command(service: FakeService, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    service.answer("/api/tasks", {"items": [make_task()], "next": None})

    assert main(["--config", str(config), "tasks", "list"]) == 0
    assert main([f"--config={config}", "tasks", "list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_a_closed_pipe_is_not_an_error(service: FakeService, config: Path) -> None:
    service.answer("/api/tasks", {"items": [make_task(label="x" * 400)] * 500, "next": None})

    with subprocess.Popen(
        [sys.executable, "-m", "receiver", "tasks", "list", "--config", config],
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()

        assert process.wait(30) == 0
        assert process.stderr.read() == ""


def test_a_closed_pipe_during_help_is_not_an_error() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "receiver", "--help"],
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()

        assert process.wait(30) == 0
        assert process.stderr.read() == ""


@pytest.mark.parametrize("count", [1, 500])  # written at the end, and on the way
def test_output_that_cannot_be_written_is_reported_in_one_sentence(
    service: FakeService, config: Path, count: int
) -> None:
    service.answer("/api/tasks", {"items": [make_task(label="x" * 400)] * count, "next": None})

    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "receiver", "tasks", "list", "--config", config],
            env=clean_environment(),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )

    assert ended.returncode == 1
    assert ended.stderr == "kling-receiver: cannot write the output: No space left on device.\n"


def test_ctrl_c_exits_with_130_and_prints_nothing(service: FakeService, config: Path) -> None:
    service.answer("/api/tasks", {"items": [make_task()], "next": None})
    service.answer("/api/tasks/counts", {"counts": {"processing": 1}})

    with subprocess.Popen(
        [sys.executable, "-m", "receiver", "tasks", "watch", "--config", config],
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)

        assert process.wait(30) == 130
        assert process.stderr.read() == "1 running, 0 waiting, 0 done\n"


def test_every_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    for argv in ([], ["tasks"], ["submit"], ["simulate"], ["demo"], ["db"], ["config"], ["tasks", "watch"]):
        assert main([*argv, "--help"]) == 0
        assert "Usage: kling-receiver" in capsys.readouterr().out


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("kling-receiver ")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_get_a_completion_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    assert "callback-url" in capsys.readouterr().out
