"""`listen` delivers events to a program under development like a route, and leaves no trace in the service."""

import asyncio
import json
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.running_service import ENDPOINT, JOB, SECRET, Receiver, a_config, a_kling, a_receiver, a_sink
from harness.waiting import wait_until
from standardwebhooks import Webhook

from receiver import Client

POLL = '[poll]\nafter = "1s"\nevery = "1s"'  # in case callbacks arrive while the service is down


@dataclass(frozen=True, slots=True)
class ListenProcess:
    """A running `listen` command."""

    process: "subprocess.Popen[bytes]"
    out: Path
    err: Path

    @property
    def lines(self) -> list[str]:
        return self.out.read_text().splitlines()

    async def stop(self, by: signal.Signals = signal.SIGINT) -> int:
        self.process.send_signal(by)
        return await asyncio.to_thread(self.process.wait, 20)


@asynccontextmanager
async def a_listen_process(receiver: Receiver, *argv: str, configured: bool = True) -> AsyncIterator[ListenProcess]:
    out, err = receiver.folder / "listen.out", receiver.folder / "listen.err"
    config = ["--config", str(receiver.config_path)] if configured else []
    with out.open("wb") as to_out, err.open("wb") as to_err:
        process = subprocess.Popen(
            [sys.executable, "-m", "receiver", "listen", *config, *argv],
            stdin=subprocess.DEVNULL,
            stdout=to_out,
            stderr=to_err,
            env={**receiver.environ, "THE_TOKEN": receiver.token},
            cwd=receiver.folder,
        )
    try:
        await wait_until(lambda: "Listening to" in err.read_text() or process.poll() is not None)
        assert process.poll() is None, err.read_text()
        yield ListenProcess(process, out, err)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


async def test_listen_forwards_to_a_url_like_a_route_through_a_restart(tmp_path: Path) -> None:
    async with (
        a_kling() as kling,
        a_sink() as sink,
        a_receiver(tmp_path, a_config(kling.url, more=POLL)) as receiver,
        Client(config=receiver.config_path) as client,
        a_listen_process(receiver, "--forward-to", sink.url, "--secret", SECRET) as listen,
    ):
        first = await client.submit(ENDPOINT, JOB)
        receiver.kill()
        await receiver.start()
        second = await client.submit(ENDPOINT, JOB)
        for task in (first, second):
            assert (await client.wait(task.id, timeout=60)).succeeded
        happened = [event.id for event in (await client.list_events(limit=500)).items]
        await wait_until(lambda: len(sink.bodies) >= len(happened))
        bodies = [await client.event_body(event_id) for event_id in happened]
        await wait_until(lambda: len(listen.lines) == len(happened))
        code = await listen.stop()

        assert sorted(sink.bodies) == sorted(bodies)
        assert {headers["webhook-id"] for headers in sink.headers} == set(happened)
        assert sink.headers[0]["user-agent"].startswith("kling-receiver/")
        assert sink.headers[0]["kling-receiver-attempt"] == "1"
        assert receiver.rows("SELECT count(*) FROM deliveries") == [(0,)]
    assert code == 130
    assert all("webhook\taccepted (204)" in line for line in listen.lines)
    assert f"{len(happened)} events, {len(happened)} accepted, 0 failed." in listen.err.read_text()
    assert SECRET not in listen.err.read_text() + listen.out.read_text()


async def test_a_program_gets_arguments_variables_and_the_event(tmp_path: Path) -> None:
    script = tmp_path / "take it"
    script.write_text('#!/bin/sh\ncat > got.json\nenv > got.env\necho "took $1 $2"\n[ "$KLING_STATUS" = succeed ]\n')
    script.chmod(0o755)
    async with (
        a_kling() as kling,
        a_receiver(tmp_path, a_config(kling.url)) as receiver,
        Client(config=receiver.config_path) as client,
        a_listen_process(receiver, "--on", "succeed", "--json", "--", "./take it", "--not-ours", "a b") as listen,
    ):
        task = await client.wait((await client.submit(ENDPOINT, JOB)).id)
        await wait_until(lambda: len(listen.lines) == 1)
        assert await listen.stop(signal.SIGTERM) == 130
        printed = json.loads(listen.lines[0])
        body = await client.event_body(printed["event_id"])

    environ = dict(line.split("=", 1) for line in (tmp_path / "got.env").read_text().splitlines() if "=" in line)
    assert (printed["type"], printed["to"], printed["outcome"], printed["code"]) == (
        "task.succeed",
        "script",
        "accepted",
        0,
    )
    assert "1 event, 1 accepted, 0 failed." in listen.err.read_text()
    assert printed["excerpt"] == "took --not-ours a b\n"
    assert (tmp_path / "got.json").read_bytes() == body
    assert environ["KLING_RECEIVER_TASK"] == task.id
    assert environ["KLING_TASK_ID"] == task.kling_id
    assert "THE_TOKEN" not in environ


async def test_a_closed_output_pipe_does_not_change_the_count(tmp_path: Path) -> None:
    async with (
        a_kling() as kling,
        a_sink(check_signatures=False) as sink,
        a_receiver(tmp_path, a_config(kling.url)) as receiver,
        Client(config=receiver.config_path) as client,
    ):
        for _ in range(2):
            await client.wait((await client.submit(ENDPOINT, JOB)).id)
        argv = ["listen", "--config", str(receiver.config_path), "--forward-to", sink.url, "--on", "succeed"]
        process = subprocess.Popen(
            [sys.executable, "-m", "receiver", *argv, "--since", "1h"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=receiver.environ,
        )
        assert process.stdout is not None
        process.stdout.close()
        process.stdout = None
        _, errors = await asyncio.to_thread(process.communicate, timeout=30)

    assert process.returncode == 0
    assert b"\n1 event, 1 accepted, 0 failed." in errors


async def test_listening_to_a_remote_receiver_uses_a_temporary_secret(tmp_path: Path) -> None:
    where = ["--url", "@ADMIN@", "--token", "env:THE_TOKEN", "--where", "task.tags.project == 'ads'"]
    async with (
        a_kling() as kling,
        a_sink(check_signatures=False) as sink,
        a_receiver(tmp_path, a_config(kling.url)) as receiver,
        Client(config=receiver.config_path) as client,
    ):
        sink.answer = lambda: 500
        await client.wait((await client.submit(ENDPOINT, JOB)).id)
        ads = await client.wait((await client.submit(ENDPOINT, JOB, tags={"project": "ads"})).id)
        argv = [word.replace("@ADMIN@", receiver.admin) for word in where]
        bare = sink.url.removeprefix("http://")
        async with a_listen_process(
            receiver, *argv, "--forward-to", bare, "--since", "1h", "--on", "succeed", configured=False
        ) as listen:
            await wait_until(lambda: len(listen.lines) == 1)
            await listen.stop()
        errors = listen.err.read_text()

    (made,) = re.findall(r"whsec_\S+(?=,)", errors)
    assert json.loads(sink.bodies[0])["data"]["task"]["id"] == ads.id
    Webhook(made).verify(sink.bodies[0], sink.headers[0])
    assert "webhook\tfailed (500)" in listen.lines[0]
    assert "1 event, 0 accepted, 1 failed. Resume with --since evt_" in errors
    assert receiver.token not in errors + listen.lines[0]


async def test_without_a_destination_events_are_printed(tmp_path: Path) -> None:
    async with (
        a_kling() as kling,
        a_receiver(tmp_path, a_config(kling.url)) as receiver,
        Client(config=receiver.config_path) as client,
    ):
        await client.wait((await client.submit(ENDPOINT, JOB)).id)
        happened = (await client.list_events()).items
        async with a_listen_process(receiver, "--json", "--since", happened[-1].id) as listen:
            await wait_until(lambda: len(listen.lines) == len(happened) - 1)

    assert [json.loads(line) for line in listen.lines] == [event.raw for event in reversed(happened[:-1])]
