"""The service, started without standard input, output or error: no socket, file or store gets their numbers."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from harness.running_service import (
    Receiver,
    a_config,
    a_kling,
    a_script_route,
    a_sink,
    a_webhook_route,
    run_receiver,
    script_lines,
    submit_task,
)
from harness.waiting import wait_until

ARCHIVE = '[archive]\ndir = "results"\n[network]\nallow = ["127.0.0.0/8"]\n'
STREAMS = {0: "<&-", 1: ">&-", 2: "2>&-"}


class StreamlessReceiver(Receiver):
    """A receiver that is started with closed streams, as a shell does it."""

    closed: tuple[int, ...] = ()

    def spawn(self) -> None:
        serve = shlex.join([sys.executable, "-m", "receiver", "serve", "--config", str(self.config_path)])
        closing = " ".join(STREAMS[number] for number in self.closed)
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                ["/bin/sh", "-c", f"exec {serve} {closing}"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environ,
                cwd=self.folder,
            )


def streams_of(receiver: Receiver, numbers: tuple[int, ...]) -> list[str]:
    assert receiver.process is not None
    return [str(Path(f"/proc/{receiver.process.pid}/fd/{number}").readlink()) for number in numbers]


@pytest.mark.parametrize("closed", [(0, 1, 2), (0,), (2,)], ids=str)
async def test_the_service_runs_and_stops_without_its_standard_streams(tmp_path: Path, closed: tuple[int, ...]) -> None:
    async with a_sink() as sink, a_kling() as kling:
        config = a_config(kling.url, more=ARCHIVE + a_webhook_route(sink) + a_script_route(tmp_path))
        receiver = StreamlessReceiver(tmp_path, config)
        receiver.closed = closed
        async with run_receiver(receiver):
            opened = streams_of(receiver, closed)
            async with receiver.client() as client:
                await submit_task(client)
            await wait_until(lambda: len(sink.received) == 1 and bool(script_lines(tmp_path)))

            assert opened == ["/dev/null"] * len(closed)
            assert await receiver.stop() == 0
            [[event]] = sink.received.values()
            assert event["data"]["assets"][0]["content_type"] == "image/png"
