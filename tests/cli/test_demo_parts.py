"""The demo's parts: the webhook sink, the sandbox and the output."""

import json
import os
import sys
from base64 import b64encode
from datetime import timedelta
from pathlib import Path

import httpx2 as httpx
import pytest
from harness.clock import START, FakeClock
from harness.ports import free_port

from receiver.cli.demo.output import DemoOutput
from receiver.cli.demo.sandbox import DemoFailed, Ports, Sandbox
from receiver.cli.demo.scenario import command_name
from receiver.cli.demo.webhook_sink import HOOK_PATH, ReceivedRequest, WebhookSink
from receiver.domain.secret import Secret
from receiver.domain.signing import SignatureStatus, sign
from receiver.settings import load

SECRET = Secret("whsec_" + b64encode(b"0123456789abcdef01234567").decode())
BODY = b'{"type": "task.succeed"}'


@pytest.mark.parametrize(
    ("secret", "age", "signature"),
    [
        (SECRET, timedelta(0), SignatureStatus.GOOD),
        (Secret("whsec_" + b64encode(b"another").decode()), timedelta(0), SignatureStatus.BAD),
        (SECRET, timedelta(hours=1), SignatureStatus.BAD),
    ],
)
def test_the_demo_sink_accepts_only_fresh_signed_requests(
    secret: Secret, age: timedelta, signature: SignatureStatus
) -> None:
    arrivals: list[ReceivedRequest] = []
    at = START - age
    headers = {
        "webhook-id": "evt_one",
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": sign([secret], message_id="evt_one", at=at, body=BODY),
    }

    with (
        WebhookSink(port=free_port(), secret=SECRET, clock=FakeClock(), on_request=arrivals.append) as sink,
        httpx.Client(trust_env=False) as client,
    ):
        answer = client.post(sink.url + HOOK_PATH, content=BODY, headers=headers)

    assert answer.status_code == (200 if signature is SignatureStatus.GOOD else 401)
    assert [(each.signature, each.event_id, each.content) for each in arrivals] == [
        (signature, "evt_one", {"type": "task.succeed"})
    ]


def test_the_sandbox_writes_a_valid_configuration() -> None:
    with Sandbox(Ports.choose(None)) as stage:
        settings = load(stage.config, {}).settings

        assert settings.public.url == f"http://127.0.0.1:{stage.ports.public}"
        assert [route.name for route in settings.routes] == ["webhook", "script"]
        assert (stage.folder / "webhook-secret").stat().st_mode & 0o077 == 0


def test_the_sandbox_stops_its_processes_and_removes_its_folder() -> None:
    with Sandbox(Ports.choose(None)) as stage:
        lines = stage.start_with_output("simulator", "simulate", "--json", "--listen", f"127.0.0.1:{stage.ports.kling}")
        assert json.loads(lines.readline())["event"] == "simulator.started"
        (_, process) = stage._started[0]

    lines.close()
    assert process.returncode == 0
    assert not stage.folder.exists()


def test_the_sandbox_names_a_process_that_ended_early() -> None:
    with Sandbox(Ports.choose(None)) as stage:
        stage.start("simulator", "simulate", "--drop", "often")
        stage._started[0][1].wait(30)

        with pytest.raises(DemoFailed, match=r"The simulator ended with exit code 2\.\n.*kling-receiver: "):
            stage.check_running()


def test_the_demo_ignores_settings_of_a_real_installation(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KLING_RECEIVER__PUBLIC__URL", "https://real.example")
    monkeypatch.setenv("KLING_API_KEY", "a-real-key")
    monkeypatch.chdir(tmp_path)

    with Sandbox(Ports.choose(None)) as stage:
        stage.start("environment", "--version")
        process = stage._started[0][1]
        seen = Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
        process.wait(30)

    assert not [each for each in seen if each.startswith(b"KLING_")]
    assert "KLING_API_KEY" in os.environ


def test_demo_steps_are_numbered_lines_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    teller = DemoOutput(as_json=False)

    teller.introduce("Here we go.")
    teller.step("ready", "Ready", "on port 1")
    teller.finish("Done.")

    first, second, third = capsys.readouterr().out.splitlines()
    assert first == "Here we go."
    assert second.startswith("1\t0.")
    assert second.endswith(" s\tReady\ton port 1")
    assert third == "Done."


def test_demo_steps_can_be_json(capsys: pytest.CaptureFixture[str]) -> None:
    teller = DemoOutput(as_json=True)

    teller.introduce("Here we go.")
    teller.step("ready", "Ready", "on port 1", port=1)
    teller.finish("Done.", event="evt_one")

    ready, done = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (ready["what"], ready["step"], ready["port"]) == ("ready", 1, 1)
    assert (done["what"], done["ok"], done["event"]) == ("done", True, "evt_one")


def test_suggested_commands_use_the_name_of_the_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = tmp_path / ".venv" / "bin" / "kling-receiver"
    command.parent.mkdir(parents=True)
    command.touch(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/nowhere")

    monkeypatch.setattr(sys, "argv", [".venv/bin/kling-receiver", "demo"])
    assert command_name() == ".venv/bin/kling-receiver"

    monkeypatch.setenv("PATH", str(command.parent))
    monkeypatch.setattr(sys, "argv", [str(command), "demo"])
    assert command_name() == "kling-receiver"

    monkeypatch.setattr(sys, "argv", ["/src/receiver/__main__.py", "demo"])
    assert command_name() == f"{sys.executable} -m receiver"
