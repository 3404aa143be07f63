"""Scripts that misbehave in every way, run by the real service: none survives or keeps a slot, each attempt has a
reason.

``GIGABYTES`` is the size of one script's output; `make soak` uses ten.
"""

import contextlib
import json
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from chaos.parameters import env_int
from harness.raw_http import http_request
from harness.running_service import Receiver, a_config, a_push_body, a_receiver, create_callback_url
from harness.soak_report import RecordCounts
from harness.waiting import wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="orphaned processes are found in Linux's /proc")

GIGABYTES = env_int("GIGABYTES", 1)
NO_KLING = "http://127.0.0.1:9"
BOMB = """
bomb() { if [ "$1" = 0 ]; then exec sleep 1000; fi; bomb $(($1 - 1)) & bomb $(($1 - 1)) & wait; }
bomb 6
"""
BOMB_OF_SESSIONS = """
[ "$1" = 0 ] && exec sleep 1000
setsid "$0" $(($1 - 1)) >/dev/null 2>&1 & setsid "$0" $(($1 - 1)) & wait
"""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A script, the expected outcome of its attempt, and the expected reason."""

    text: str
    outcome: str = "failed"
    reason: str
    timeout: str = "1s"
    arguments: Sequence[str] = ()
    mode: int = 0o755
    first_line: str = "#!/bin/sh"


LATE_RESPONSE = "ran longer than 1 s and was stopped. Raise the route's timeout"
CASES: Mapping[str, Case] = {
    "runaway": Case(text="exec sleep 1000", reason=LATE_RESPONSE),
    "busy": Case(text="while :; do :; done", reason=LATE_RESPONSE),
    "bomb": Case(text=BOMB, reason=LATE_RESPONSE),
    "bomb-of-sessions": Case(text=BOMB_OF_SESSIONS, arguments=["4"], reason=LATE_RESPONSE),
    "escaped": Case(text="setsid sleep 1000 >/dev/null 2>&1 </dev/null & sleep 1000", reason=LATE_RESPONSE),
    "stubborn": Case(text="trap '' TERM HUP INT; while :; do sleep 1; done", reason=LATE_RESPONSE),
    "stopped": Case(text="kill -STOP $$", reason=LATE_RESPONSE),
    "endless": Case(text="exec cat /dev/zero", reason=LATE_RESPONSE),
    "held": Case(text="setsid sleep 1000 & exit 0", outcome="accepted", reason=""),
    "held-and-failed": Case(text="setsid sleep 1000 & echo no room >&2; exit 7", reason="exited with 7; its output"),
    "escaped-and-failed": Case(
        text="setsid sh -c 'while :; do sleep 0.5; done' >/dev/null 2>&1 </dev/null & exit 7",
        reason="exited with 7; its output",
    ),
    "deaf": Case(text="exec <&-; exit 0", outcome="accepted", reason=""),
    "flood": Case(
        text=f"exec head -c {GIGABYTES}000000000 /dev/zero", outcome="accepted", reason="", timeout=f"{GIGABYTES}m"
    ),
    "unset": Case(text="exit 78", outcome="refused", reason="is not configured (exit 78)"),
    "never": Case(text="exit 65", outcome="refused", reason="refused this event for good (exit 65)"),
    "killed": Case(text="kill -9 $$", reason="was killed by SIGKILL (possibly out of memory)"),
    "no-bit": Case(text="exit 0", mode=0o644, reason="is not executable. Run `chmod +x"),
    "no-interpreter": Case(
        text="", first_line="#!/opt/none/python", reason="its interpreter /opt/none/python does not exist"
    ),
    "no-first-line": Case(text="exit 0", first_line="", reason="Begin it with a line such as #!/bin/sh"),
    "no-file": Case(text="", mode=0, reason="program not found. Correct the route's command"),
}


def a_route(folder: Path, name: str, case: Case) -> str:
    """Write the script, and a route that runs one at a time with a long delay after a failure."""
    script = folder / name
    script.write_text(f"{case.first_line}\n{case.text}\n")
    script.chmod(case.mode)
    if not case.mode:
        script.unlink()
    command = json.dumps([str(script), *case.arguments])
    return f"""
[[routes]]
name = "{name}"
on = ["processing", "succeed"]
unverified = true
concurrency = 1
retry = ["1h"]
script = {{ command = {command}, timeout = "{case.timeout}" }}
"""


@contextlib.asynccontextmanager
async def a_running_receiver(folder: Path, routes: str) -> AsyncIterator[tuple[Receiver, httpx2.AsyncClient]]:
    """Run a receiver with these routes that never polls."""
    config = a_config(NO_KLING, more='[callbacks]\nverify = "never"\n' + routes)
    async with a_receiver(folder, config) as receiver, receiver.client() as client:
        yield receiver, client


async def push_callback(url: str, status: str) -> None:
    """Push a callback whose body is larger than a pipe's buffer."""
    answer = await http_request("POST", url, a_push_body(status, padding="x" * 500_000))
    assert answer.status == 200


ATTEMPTS = """
    SELECT route, outcome, reason, code, length(excerpt), status, claim
    FROM attempts JOIN deliveries ON deliveries.id = delivery_id
"""


def processes_of(service: int) -> list[str]:
    """Return the running processes of a service: by the marker of each script run, or as its children."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            fields = (folder / "stat").read_text().rpartition(") ")[2].split()
            marks = [each for each in (folder / "environ").read_bytes().split(b"\0") if each.startswith(b"KLING_RUN=")]
            if fields[1] == str(service) or any(f"-{service}-".encode() in mark for mark in marks):
                found.append(f"{folder.name} {fields[0]} {(folder / 'cmdline').read_bytes()!r}")
    return found


@pytest.mark.soak("scripts that go wrong in every way", minutes=1)
async def test_every_bad_script_ends_with_a_reason_and_no_process(tmp_path: Path, record_counts: RecordCounts) -> None:
    routes = "".join(a_route(tmp_path, name, case) for name, case in CASES.items())
    async with a_running_receiver(tmp_path, routes) as (receiver, client):
        assert receiver.process is not None
        service = receiver.process.pid
        _, url = await create_callback_url(client)

        await push_callback(url, "processing")
        await wait_until(lambda: len(receiver.rows(ATTEMPTS)) == len(CASES), seconds=60 * GIGABYTES)

        for route, outcome, reason, _, excerpt, status, claim in receiver.rows(ATTEMPTS):
            case = CASES[route]
            assert (route, outcome) == (route, case.outcome), reason
            assert case.reason in reason
            assert status == {"accepted": "delivered", "failed": "pending", "refused": "dead"}[outcome], route
            assert claim is None
            assert excerpt <= 65536
        await wait_until(lambda: processes_of(service) == [])
        assert (await http_request("GET", f"{receiver.public}/healthz")).status == 200

        await push_callback(url, "succeed")
        await wait_until(lambda: len(receiver.rows(ATTEMPTS)) == 2 * len(CASES), seconds=60 * GIGABYTES)

        assert await receiver.stop() == 0
        assert processes_of(service) == []
        assert receiver.log_entries("sender.failed") == []
        record_counts(scripts=2 * len(CASES), gigabytes_put_out_by_one=GIGABYTES, processes_left=0)


def a_waiting_script(folder: Path, *, more: str = "") -> str:
    """A route to a script that reports its start and runs until a file appears."""
    script = folder / "waits"
    script.write_text(
        f"""#!/bin/sh
echo "$KLING_ATTEMPT $$" >>{folder}/begun
{more}
while ! test -e {folder}/go; do sleep 0.05; done
echo "$KLING_ATTEMPT" >>{folder}/ended
"""
    )
    script.chmod(0o755)
    return (
        '[[routes]]\nname = "waits"\non = ["*"]\nunverified = true\nretry = ["1s"]\n'
        f'script = {{ command = ["{script}"], timeout = "5m" }}\n'
    )


def started_processes(folder: Path) -> list[str]:
    """Return the process of each started run."""
    path = folder / "begun"
    return [line.split()[1] for line in path.read_text().splitlines()] if path.exists() else []


def is_running(process: str) -> bool:
    try:
        stat = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False
    return not stat.rpartition(") ")[2].startswith("Z")


def the_delivery(receiver: Receiver) -> tuple[Any, ...]:
    (delivery,) = receiver.rows("SELECT status, attempts FROM deliveries")
    return delivery


async def test_a_stop_waits_for_a_short_script(tmp_path: Path) -> None:
    async with a_running_receiver(tmp_path, a_waiting_script(tmp_path)) as (receiver, client):
        _, url = await create_callback_url(client)
        await push_callback(url, "processing")
        await wait_until(lambda: len(started_processes(tmp_path)) == 1)

        receiver.terminate()
        await wait_until(lambda: bool(receiver.log_entries("dispatch.draining")))
        (tmp_path / "go").touch()

        assert await receiver.wait_for_exit() == 0
        assert the_delivery(receiver) == ("delivered", 1)
        assert (tmp_path / "ended").read_text() == "1\n"


async def test_a_stop_ends_a_long_script_and_the_next_start_retries(tmp_path: Path) -> None:
    pid = tmp_path / "strayed"
    strayed = f"test -e {pid} || setsid sh -c 'echo $$ >{pid}; exec sleep 1000' >/dev/null 2>&1 &"
    async with a_running_receiver(tmp_path, a_waiting_script(tmp_path, more=strayed)) as (receiver, client):
        assert receiver.process is not None
        service = receiver.process.pid
        _, url = await create_callback_url(client)
        await push_callback(url, "processing")
        await wait_until(lambda: len(started_processes(tmp_path)) == 1 and pid.exists())

        assert await receiver.stop(seconds=60) == 0

        assert processes_of(service) == []
        assert not is_running(started_processes(tmp_path)[0])
        assert the_delivery(receiver) == ("pending", 0)
        (tmp_path / "go").touch()
        await receiver.start()
        await wait_until(lambda: the_delivery(receiver)[0] == "delivered")
        assert (tmp_path / "ended").read_text() == "1\n"


async def test_a_killed_services_script_ends_before_its_retry(tmp_path: Path) -> None:
    async with a_running_receiver(tmp_path, a_waiting_script(tmp_path)) as (receiver, client):
        _, url = await create_callback_url(client)
        await push_callback(url, "processing")
        await wait_until(lambda: len(started_processes(tmp_path)) == 1)

        receiver.kill()
        await receiver.start()
        await wait_until(lambda: len(started_processes(tmp_path)) == 2)

        first, second = started_processes(tmp_path)
        assert not is_running(first)
        assert is_running(second)
        (tmp_path / "go").touch()
        await wait_until(lambda: the_delivery(receiver)[0] == "delivered")
        assert (tmp_path / "ended").read_text() == "1\n"
