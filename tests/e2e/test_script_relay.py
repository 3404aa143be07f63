"""A script in its own systemd unit behaves like one that the service runs itself. systemd-socket-activate starts it."""

import asyncio
import contextlib
import json
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from harness.clock import START
from harness.factories import an_event
from harness.raw_http import http_request
from harness.running_service import a_config, a_push_body, a_receiver, create_callback_url
from harness.waiting import wait_until

from receiver.delivery.senders.script import ScriptSender
from receiver.delivery.senders.sender import DeliveryRequest
from receiver.domain.model import Accepted, Failed, Outcome, Refused
from receiver.settings import ScriptSettings

RELAY = (sys.executable, "-Im", "receiver.delivery.senders.script_relay")

pytestmark = pytest.mark.skipif(
    shutil.which("systemd-socket-activate") is None, reason="systemd-socket-activate is not installed"
)


@contextlib.asynccontextmanager
async def a_unit(folder: Path, text: str, *arguments: str) -> AsyncIterator[str]:
    """Start a script for each connection to a socket. Yield the socket's path."""
    script, path = folder / "publish", folder / "script.sock"
    script.write_text(f"#!/bin/sh\n{text}\n")
    script.chmod(0o755)
    command = ["systemd-socket-activate", "--accept", "--inetd", "--listen", str(path)]
    with (folder / "journal").open("wb") as journal:
        activator = subprocess.Popen([*command, *RELAY, "serve", str(script), *arguments], stderr=journal)
    try:
        await wait_until(lambda: is_listening(path))
        yield str(path)
    finally:
        activator.terminate()
        activator.wait()


async def send_by_relay(path: str, *, seconds: float = 10, **changes: Any) -> Outcome:
    settings = ScriptSettings(command=(*RELAY, "request", path), timeout=timedelta(seconds=seconds))
    event = an_event(**changes)
    return await ScriptSender(settings).send(DeliveryRequest(delivery_id="dlv_1", event=event, attempt=3, at=START))


def is_listening(path: Path) -> bool:
    """Return whether the socket accepts connections, without connecting: a connection would start a script."""
    sockets = (line.split() for line in Path("/proc/net/unix").read_text().splitlines())
    return any(fields[-1] == str(path) and int(fields[3], 16) & 0x10000 for fields in sockets)


@contextlib.contextmanager
def a_requester(path: str) -> Iterator[socket.socket]:
    """Be a `request` that is killed in the end: its socket is closed with both halves."""
    with socket.socket(socket.AF_UNIX) as asker:
        asker.connect(path)
        yield asker


def a_head(*, length: int) -> bytes:
    """What goes over the socket before the event."""
    return json.dumps({"marker": "w", "variables": {}, "length": length}).encode() + b"\n"


def a_route(path: str, *, retry: str = "1h") -> str:
    """A route to the unit whose script may take two seconds, and the trust that it needs."""
    command = json.dumps([*RELAY, "request", path])
    return f"""
[callbacks]
verify = "never"

[[routes]]
name = "unit"
unverified = true
concurrency = 1
retry = ["{retry}"]
script = {{ command = {command}, timeout = "2s" }}
"""


def is_running(pid_file: Path) -> bool:
    try:
        stat = Path(f"/proc/{pid_file.read_text().strip()}/stat").read_text()
    except OSError:
        return False
    return not stat.rpartition(") ")[2].startswith("Z")


async def test_a_relayed_script_gets_event_and_variables_and_returns_its_output(tmp_path: Path) -> None:
    async with a_unit(
        tmp_path, 'cat; echo; echo "$1 $KLING_EVENT_ID $KLING_ATTEMPT [$KLING_RUN]" >/dev/stderr', "--fast"
    ) as path:
        outcome = await send_by_relay(path)

    assert isinstance(outcome, Accepted)
    event, line = outcome.excerpt.splitlines()
    assert json.loads(event)["data"]["event_id"] == "evt_1"
    assert line == b"--fast evt_1 3 []"


async def test_only_kling_variables_are_passed(tmp_path: Path) -> None:
    async with a_unit(tmp_path, 'echo "[$LD_PRELOAD] [$KLING_STATUS]"') as path:
        reader, writer = await asyncio.open_unix_connection(path)
        variables = {"LD_PRELOAD": "evil.so", "KLING_STATUS": "succeed", "KLING_RUN": "1-2-3"}
        writer.write(json.dumps({"marker": "w", "variables": variables, "length": 2}).encode() + b"\n{}")
        answer = await reader.read()
        writer.close()

    assert answer == b"[] [succeed]\n\nw 0\n"


@pytest.mark.parametrize(
    ("text", "kind", "code", "words"),
    [
        ("exit 0", Accepted, 0, ""),
        ("echo no room; exit 7", Failed, 7, "exited with 7"),
        ("exit 75", Failed, 75, "asked for a retry"),
        ("exit 65", Refused, 65, "refused this event for good"),
        ("exit 78", Refused, 78, "is not configured"),
        ("kill -9 $$", Failed, 137, "was killed by SIGKILL"),
        ("kill -9 $PPID", Failed, 75, "asked for a retry"),
        ("setsid sleep 6 & exit 0", Accepted, 0, ""),
        ("exec <&-; exit 0", Accepted, 0, ""),
        ("printf 'no line end'; exit 9", Failed, 9, ""),
        ("head -c 100000000 /dev/zero", Accepted, 0, ""),
    ],
)
async def test_the_exit_code_is_returned(tmp_path: Path, text: str, kind: type, code: int, words: str) -> None:
    async with a_unit(tmp_path, text) as path:
        outcome = await send_by_relay(path, body=b"{" + b'"x":"' + b"y" * 5_000_000 + b'"}')

    assert isinstance(outcome, kind)
    assert outcome.code == code
    assert words in getattr(outcome, "reason", "")


async def test_a_missing_unit_is_named(tmp_path: Path) -> None:
    outcome = await send_by_relay(str(tmp_path / "script.sock"))

    assert isinstance(outcome, Failed)
    assert outcome.code == 75
    assert outcome.excerpt.endswith(
        b"script.sock: No such file or directory. Check that its socket unit runs and that the service may use it.\n"
    )


@pytest.mark.parametrize(
    "text",
    [
        "echo begun; echo $$ >{pid}; exec sleep 60",
        "trap '' TERM; echo begun; echo $$ >{pid}; while :; do sleep 1; done",
    ],
    ids=["heeds the request", "does not"],
)
async def test_a_timed_out_attempt_ends_with_its_script(tmp_path: Path, text: str) -> None:
    pid = tmp_path / "pid"
    async with a_unit(tmp_path, text.format(pid=pid)) as path:
        outcome = await send_by_relay(path, seconds=3)

        assert isinstance(outcome, Failed)
        assert not is_running(pid)
        assert "ran longer than 3 s" in outcome.reason
        assert outcome.excerpt == b"begun\n"


async def test_a_killed_requester_ends_its_script(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    async with a_unit(tmp_path, f"echo $$ >{pid}; exec sleep 60") as path:
        with a_requester(path) as asker:
            asker.sendall(a_head(length=2) + b"{}")
            await wait_until(lambda: pid.exists() and pid.read_text().endswith("\n"))

        await wait_until(lambda: not is_running(pid))


@pytest.mark.parametrize(
    "sent", [b"", b'{"word', '{head}{"half an ev'], ids=["nothing", "half a head", "half an event"]
)
async def test_a_truncated_request_starts_no_script(tmp_path: Path, sent: bytes | str) -> None:
    sent = sent if isinstance(sent, bytes) else sent.replace("{head}", a_head(length=100).decode()).encode()
    async with a_unit(tmp_path, f"touch {tmp_path}/ran") as path:
        with a_requester(path) as asker:
            asker.sendall(sent)

        await wait_until(lambda: "The client has disconnected." in (tmp_path / "journal").read_text())
    assert not (tmp_path / "ran").exists()


def test_an_early_disconnect_starts_no_script(tmp_path: Path) -> None:
    (tmp_path / "publish").write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    (tmp_path / "publish").chmod(0o755)
    asker, unit = socket.socketpair()
    with asker, unit:
        asker.sendall(a_head(length=2) + b"{}")
        asker.shutdown(socket.SHUT_WR)

        with subprocess.Popen([*RELAY, "serve", str(tmp_path / "publish")], stdin=unit.fileno()) as relay:
            assert relay.wait(10) == 0

        assert asker.recv(100) == b"\nw 75\n"
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(("code", "is_over"), [(0, True), (7, False)], ids=["success", "failure"])
async def test_a_failed_attempt_lasts_until_the_unit_ends(tmp_path: Path, code: int, is_over: bool) -> None:
    ended, gone = asyncio.Event(), asyncio.Event()

    async def a_unit_with_a_stray(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = json.loads(await reader.readline())
        writer.write(f"\n{head['marker']} {code}\n".encode())
        await writer.drain()
        ended.set()
        await gone.wait()
        writer.close()

    async with await asyncio.start_unix_server(a_unit_with_a_stray, tmp_path / "script.sock"):
        attempt = asyncio.ensure_future(send_by_relay(str(tmp_path / "script.sock")))
        await ended.wait()
        done, _ = await asyncio.wait([attempt], timeout=10 if is_over else 1)
        assert bool(done) is is_over
        gone.set()

        assert (await attempt).code == code


async def test_an_attempt_waits_for_the_previous_script(tmp_path: Path) -> None:
    text = f"""
trap '' TERM
test -e {tmp_path}/pid && kill -0 "$(cat {tmp_path}/pid)" && touch {tmp_path}/overlap
echo $$ >{tmp_path}/pid
echo "$KLING_ATTEMPT" >>{tmp_path}/begun
while :; do sleep 0.1; done
"""
    async with a_unit(tmp_path, text) as path:
        config = a_config("http://127.0.0.1:9", more=a_route(path, retry="1s"))
        async with a_receiver(tmp_path, config) as receiver, receiver.client() as client:
            _, url = await create_callback_url(client)
            await http_request("POST", url, a_push_body("succeed"))
            begun = tmp_path / "begun"
            await wait_until(lambda: begun.exists() and begun.read_text().count("\n") > 1, seconds=60)

            assert not (tmp_path / "overlap").exists()
            assert await receiver.stop(seconds=60) == 0
            assert not is_running(tmp_path / "pid")


async def test_a_route_of_the_real_service_uses_the_relay(tmp_path: Path) -> None:
    async with a_unit(tmp_path, f'cat >{tmp_path}/event; echo "took $KLING_EVENT_TYPE"') as path:
        config = a_config("http://127.0.0.1:9", more=a_route(path))
        async with a_receiver(tmp_path, config) as receiver, receiver.client() as client:
            _, url = await create_callback_url(client)
            await http_request("POST", url, a_push_body("succeed"))
            await wait_until(lambda: bool(receiver.rows("SELECT * FROM attempts")))

            assert receiver.rows("SELECT outcome, code, excerpt FROM attempts") == [
                ("accepted", 0, b"took task.succeed\n")
            ]
    assert json.loads((tmp_path / "event").read_text())["type"] == "task.succeed"
