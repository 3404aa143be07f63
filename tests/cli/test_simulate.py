"""The simulator as a command: a process that prints events and ends on a signal."""

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx2 as httpx
from harness.ports import free_port
from harness.run_cli import clean_environment, run_cli


def test_simulate_prints_each_event_as_a_line_of_json() -> None:
    with running_simulator("--json", "--submitted-for", "10ms", "--processing-for", "10ms") as simulator:
        headers = {"authorization": "Bearer any"}
        with httpx.Client(trust_env=False, headers=headers) as client:
            client.post(f"{simulator.url}/v1/images/generations", json={"prompt": "[fail: no boats]"})
        lines = [json.loads(line) for line in simulator.read_lines(4)]

    assert [line["event"] for line in lines] == ["simulator.started", "create.answered", "task.changed", "task.changed"]
    assert lines[-1]["message"] == "no boats"


def test_simulate_ends_on_sigterm() -> None:
    with running_simulator() as simulator:
        simulator.process.send_signal(signal.SIGTERM)

        assert simulator.process.wait(30) == 0


def test_simulate_reports_a_port_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"

        ended = run_cli("simulate", "--listen", listen)

    assert ended.returncode == 1
    assert ended.stderr == (
        f"kling-receiver: The simulator cannot listen on {listen}: Address already in use. "
        "Choose another with --listen.\n"
    )


@dataclass
class RunningSimulator:
    """A simulator that has started; ``lines`` is what it told so far."""

    process: subprocess.Popen[str]
    url: str
    lines: list[str]

    def read_lines(self, count: int) -> list[str]:
        assert self.process.stdout is not None
        while len(self.lines) < count:
            self.lines.append(self.process.stdout.readline())
        return self.lines


@contextmanager
def running_simulator(*options: str) -> Iterator[RunningSimulator]:
    listen = f"127.0.0.1:{free_port()}"
    with subprocess.Popen(
        [sys.executable, "-m", "receiver", "simulate", "--listen", listen, *options],
        env=clean_environment(),
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        simulator = RunningSimulator(process=process, url=f"http://{listen}", lines=[])
        try:
            assert listen in simulator.read_lines(1)[0]
            yield simulator
        finally:
            process.terminate()
