"""A script in a unit of its own behaves as one that the service runs itself; systemd's own tool starts it."""

import asyncio
import contextlib
import json
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from factories import an_event
from processes import a_config, a_push, a_receiver, minted
from support import START, until
from wire import ask

from receiver.model import Accepted, Failed, Outcome, Refused
from receiver.senders import Parcel
from receiver.senders.script import ScriptSender
from receiver.settings import ScriptSettings

RELAY = (sys.executable, "-Im", "receiver.relay")

pytestmark = pytest.mark.skipif(
    shutil.which("systemd-socket-activate") is None, reason="there is no systemd-socket-activate here"
)


@contextlib.asynccontextmanager
async def a_unit(folder: Path, text: str, *arguments: str) -> AsyncIterator[str]:
    """Have a script started for each connection to a socket; give the socket's path."""
    script, path = folder / "publish", folder / "script.sock"
    script.write_text(f"#!/bin/sh\n{text}\n")
    script.chmod(0o755)
    command = ["systemd-socket-activate", "--accept", "--inetd", "--listen", str(path)]
    with (folder / "journal").open("wb") as journal:
        activator = subprocess.Popen([*command, *RELAY, "run", str(script), *arguments], stderr=journal)
    try:
        await until(path.exists)
        yield str(path)
    finally:
        activator.terminate()
        activator.wait()


async def attempted(path: str, *, within: float = 10, **changes: Any) -> Outcome:
    settings = ScriptSettings(command=(*RELAY, "ask", path), timeout=timedelta(seconds=within))
    event = an_event(**changes)
    return await ScriptSender(settings).send(Parcel(delivery_id="dlv_1", event=event, attempt=3, at=START))


def lives(pid_file: Path) -> bool:
    try:
        stat = Path(f"/proc/{pid_file.read_text().strip()}/stat").read_text()
    except OSError:
        return False
    return not stat.rpartition(") ")[2].startswith("Z")


async def test_the_event_and_its_variables_arrive_and_the_output_comes_back(tmp_path: Path) -> None:
    async with a_unit(
        tmp_path, 'cat; echo; echo "$1 $KLING_EVENT_ID $KLING_ATTEMPT [$KLING_RUN]" >/dev/stderr', "--fast"
    ) as path:
        outcome = await attempted(path)

    assert isinstance(outcome, Accepted)
    event, said = outcome.excerpt.splitlines()
    assert json.loads(event)["data"]["event_id"] == "evt_1"
    assert said == b"--fast evt_1 3 []"


async def test_only_variables_of_ours_cross_over(tmp_path: Path) -> None:
    async with a_unit(tmp_path, 'echo "[$LD_PRELOAD] [$KLING_STATUS]"') as path:
        reader, writer = await asyncio.open_unix_connection(path)
        variables = {"LD_PRELOAD": "evil.so", "KLING_STATUS": "succeed", "KLING_RUN": "1-2-3"}
        writer.write(json.dumps({"word": "w", "variables": variables}).encode() + b"\n{}")
        writer.write_eof()
        said = await reader.read()
        writer.close()

    assert said == b"[] [succeed]\n\nw 0\n"


@pytest.mark.parametrize(
    ("text", "kind", "code", "words"),
    [
        ("exit 0", Accepted, 0, ""),
        ("echo no room; exit 7", Failed, 7, "exited with 7"),
        ("exit 75", Failed, 75, "asks to be tried again"),
        ("exit 65", Refused, 65, "can never be taken"),
        ("exit 78", Refused, 78, "is not set up"),
        ("kill -9 $$", Failed, 137, "was killed by SIGKILL"),
        ("kill -9 $PPID", Failed, 75, "asks to be tried again"),
        ("setsid sleep 6 & exit 0", Accepted, 0, ""),
        ("exec <&-; exit 0", Accepted, 0, ""),
        ("printf 'no line end'; exit 9", Failed, 9, ""),
        ("head -c 100000000 /dev/zero", Accepted, 0, ""),
    ],
)
async def test_the_exit_code_comes_back(tmp_path: Path, text: str, kind: type, code: int, words: str) -> None:
    async with a_unit(tmp_path, text) as path:
        outcome = await attempted(path, body=b"{" + b'"x":"' + b"y" * 5_000_000 + b'"}')

    assert isinstance(outcome, kind)
    assert outcome.code == code
    assert words in getattr(outcome, "reason", "")


async def test_a_unit_that_is_not_there_is_named(tmp_path: Path) -> None:
    outcome = await attempted(str(tmp_path / "script.sock"))

    assert isinstance(outcome, Failed)
    assert outcome.code == 75
    assert outcome.excerpt.endswith(
        b"script.sock: No such file or directory. Is its socket unit started, and may the service use it?\n"
    )


@pytest.mark.parametrize(
    "text", ["echo $$ >{pid}; exec sleep 60", "trap '' TERM; echo $$ >{pid}; while :; do sleep 1; done"]
)
async def test_a_time_out_reaches_the_script(tmp_path: Path, text: str) -> None:
    pid = tmp_path / "pid"
    async with a_unit(tmp_path, text.format(pid=pid)) as path:
        outcome = await attempted(path, within=1)

        assert isinstance(outcome, Failed)
        assert "ran longer than 1 s" in outcome.reason
        await until(lambda: not lives(pid))


async def test_a_route_of_the_real_service_uses_it(tmp_path: Path) -> None:
    async with a_unit(tmp_path, f'cat >{tmp_path}/event; echo "took $KLING_EVENT_TYPE"') as path:
        command = json.dumps([*RELAY, "ask", path])
        route = f'[[routes]]\nname = "unit"\nunverified = true\nscript = {{ command = {command} }}\n'
        config = a_config("http://127.0.0.1:9", more='[callbacks]\nverify = "never"\n' + route)
        async with a_receiver(tmp_path, config) as receiver, receiver.client() as client:
            _, url = await minted(client)
            await ask("POST", url, a_push("succeed"))
            await until(lambda: bool(receiver.rows("SELECT * FROM attempts")))

            assert receiver.rows("SELECT outcome, code, excerpt FROM attempts") == [
                ("accepted", 0, b"took task.succeed\n")
            ]
    assert json.loads((tmp_path / "event").read_text())["type"] == "task.succeed"
