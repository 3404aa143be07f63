"""The systemd units are valid and hardened, as far as systemd's tools can check without being PID 1."""

import configparser
import re
import shutil
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest

from receiver.delivery.senders import script_relay
from receiver.delivery.senders.process import KILL_AFTER

ROOT = Path(__file__).parents[2]


class Unit:
    """A unit file: the last value of each key, and all values of repeatable keys."""

    def __init__(self, name: str) -> None:
        self.text = (ROOT / "systemd" / name).read_text()
        parser = configparser.ConfigParser(strict=False, interpolation=None, delimiters="=", comment_prefixes="#")
        parser.optionxform = str  # type: ignore[assignment,method-assign]  # the documented way to keep the case
        parser.read_string(self.text)
        self.last = {key: value for section in parser.sections() for key, value in parser[section].items()}

    def all(self, key: str) -> list[str]:
        return re.findall(rf"^{key}=(.*)$", self.text, re.MULTILINE)


@pytest.fixture(scope="module")
def service() -> Unit:
    return Unit("kling-receiver.service")


@pytest.fixture(scope="module")
def public() -> Unit:
    return Unit("kling-receiver.socket")


def test_systemd_analyze_finds_no_error_and_low_exposure() -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("there is no systemd-analyze here; .ci/run brings it along")

    ended = subprocess.run([ROOT / ".ci/run", "units"], capture_output=True, text=True, check=False, timeout=60)

    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "Overall exposure level" in ended.stdout


def test_node_scripts_can_run_in_the_sandbox(service: Unit) -> None:
    assert "MemoryDenyWriteExecute" not in service.last
    assert service.last["SystemCallErrorNumber"] == "EPERM"


def test_systemctl_reload_waits_for_the_outcome_on_every_systemd(service: Unit) -> None:
    assert service.last["Type"] == "notify", "notify-reload needs systemd 253; bookworm has 252"
    assert service.last["ExecReload"] == service.last["ExecStart"].replace(" serve", " config reload")


def test_a_stop_signals_only_the_service_and_leaves_it_time(service: Unit) -> None:
    assert service.last["KillMode"] == "mixed"
    assert seconds(service.last["TimeoutStopSec"]) > timedelta(seconds=30)


def test_only_a_crash_restarts_the_service_not_a_bad_configuration(service: Unit) -> None:
    assert service.last["Restart"] == "on-failure"
    assert service.last["RestartPreventExitStatus"] == "78"
    assert seconds(service.last["RestartSec"]) * 5 > timedelta(seconds=10), "else systemd gives up after five"


def test_the_store_is_in_a_writable_folder(service: Unit) -> None:
    assert service.last["StateDirectory"] == "kling-receiver"
    assert "KLING_RECEIVER__STORE__URL=sqlite:/var/lib/kling-receiver/receiver.db" in service.all("Environment")


def test_no_secret_is_in_the_environment(service: Unit) -> None:
    given = dict(value.split("=", 1) for value in service.all("Environment"))
    credentials = [value.split(":")[0] for value in service.all("LoadCredential")]

    secret = given["KLING_RECEIVER__KLING__API_KEY"]
    assert secret.removeprefix("credential:") in credentials


def test_the_socket_has_the_expected_name(public: Unit) -> None:
    assert public.last["FileDescriptorName"] == "public"
    assert public.last["ListenStream"] == "127.0.0.1:8700"


def test_the_script_unit_is_started_by_its_socket_and_limited() -> None:
    listening, script = Unit("kling-receiver-script.socket"), Unit("kling-receiver-script@.service")

    assert listening.last["Accept"] == "yes"
    assert f'receiver.delivery.senders.script_relay", "request", "{listening.last["ListenStream"]}"' in listening.text
    assert " -Im receiver.delivery.senders.script_relay serve " in script.last["ExecStart"]
    assert script.last["StandardInput"] == "socket"
    assert script.last["User"] == listening.last["SocketGroup"]
    assert {"TasksMax", "RuntimeMaxSec"} <= script.last.keys()


def test_the_script_unit_ends_before_it_may_start_again(service: Unit) -> None:
    grace = timedelta(seconds=script_relay._TERMINATE_SECONDS) + seconds(
        Unit("kling-receiver-script@.service").last["TimeoutStopSec"]
    )

    assert grace < KILL_AFTER, "when a time-out ends the attempt"
    assert grace < seconds(service.last["RestartSec"]), "when the service was killed"


def seconds(span: str) -> timedelta:
    number, unit = re.fullmatch(r"(\d+)(s|min)", span).groups()  # type: ignore[union-attr]  # a failed match fails the test
    return timedelta(seconds=int(number) * (60 if unit == "min" else 1))
