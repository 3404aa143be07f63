"""Run a route's script outside the service's sandbox, in its own systemd unit, started anew for each attempt.

    the route's command     python -Im receiver.delivery.senders.script_relay request /run/kling-receiver-script.sock
    the unit's ExecStart    python -Im receiver.delivery.senders.script_relay serve /usr/local/bin/publish --fast

`request` sends one line of JSON (the KLING_ variables, a random end marker, the event's length), then the event.
`serve` sends back the script's output, then a line with the marker and the exit code. If `request` disconnects, the
script is ended. An answer without the marker is a failed attempt.

On SIGTERM, `request` closes only its sending half and waits for the other half to close. systemd keeps that open until
every process of the unit is gone, so no other attempt begins before. This module imports nothing from the project,
so it starts quickly.
"""

import contextlib
import json
import os
import re
import secrets
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from io import FileIO
from typing import IO, Any

_MODULE = "receiver.delivery.senders.script_relay"

RETRY_LATER = 75
NOT_FOUND = 127
NOT_EXECUTABLE = 126

_VARIABLE = re.compile(r"KLING_[A-Z_]+")
_RESERVED_VARIABLES = frozenset({"KLING_RUN"})  # the service would take the unit's processes for its own run
_CHUNK_SIZE = 65536
_MAX_CHUNKS_AFTER_EXIT = 64  # leftover processes of a script may write endlessly
_TERMINATE_SECONDS = 3  # of the 5 s that `request` has; the unit's other processes need some too
_SIGNAL_BASE = 128


def request(path: str) -> int:
    """Ask the unit behind the socket at *path* to run its script. Forward its output and return its exit code."""
    marker = secrets.token_hex(16)
    variables = {name: value for name, value in os.environ.items() if _is_forwarded(name)}
    event = sys.stdin.buffer.read()
    head = json.dumps({"marker": marker, "variables": variables, "length": len(event)}).encode()
    with socket.socket(socket.AF_UNIX) as unit:
        signal.signal(signal.SIGTERM, lambda *_: _close_sending_half(unit))
        try:
            unit.connect(path)
            unit.sendall(head + b"\n" + event)
            return _forward_output(unit, f"\n{marker} ".encode())
        except OSError as exc:
            _print_error(f"{path}: {exc.strerror}. Check that its socket unit runs and that the service may use it.")
            return RETRY_LATER


def _close_sending_half(unit: socket.socket) -> None:
    with contextlib.suppress(OSError):  # closed already
        unit.shutdown(socket.SHUT_WR)


def _forward_output(unit: socket.socket, marker: bytes) -> int:
    """Forward output until *marker* and return the exit code that follows it.

    After a failure, wait until the other end is closed: every process of the unit must be gone before a retry.
    """
    pending = b""
    while data := unit.recv(_CHUNK_SIZE):
        pending += data
        output, found, end = pending.partition(marker)
        if found and b"\n" in end:
            _write(output)
            code = int(end.partition(b"\n")[0])
            while code and unit.recv(_CHUNK_SIZE):
                pass
            return code
        if not found:
            _write(pending[: -len(marker)])
            pending = pending[-len(marker) :]
    _write(pending)
    _print_error("The unit ended before its script; see the unit's journal.")
    return RETRY_LATER


def _write(output: bytes) -> None:
    sys.stdout.buffer.write(output)
    sys.stdout.buffer.flush()


def serve(command: Sequence[str]) -> int:
    """Run *command* for the client connected to standard input, a socket. Return the exit code of this process."""
    with socket.socket(fileno=os.dup(sys.stdin.fileno())) as client, tempfile.TemporaryFile() as event:
        try:
            head = _read_request(client, event)
            variables = {name: str(value) for name, value in head["variables"].items() if _is_forwarded(name)}
            code = _run_script(command, client, event, {**os.environ, **variables})
            client.sendall(f"\n{head['marker']} {code}\n".encode())
        except ConnectionError:
            _print_error("The client has disconnected.")
            return 1
    return 0


def _read_request(client: socket.socket, event: IO[bytes]) -> dict[str, Any]:
    """Return the client's header and write the event to *event*. Raises ConnectionError if it is incomplete."""
    with client.makefile("rb") as stream:
        line = stream.readline()
        if line.endswith(b"\n"):
            head: dict[str, Any] = json.loads(line)
            if event.write(stream.read(head["length"])) == head["length"]:
                event.seek(0)
                return head
    raise ConnectionResetError


def _run_script(command: Sequence[str], client: socket.socket, event: IO[bytes], environ: Mapping[str, str]) -> int:
    """Run the script and return its exit code as a shell would. If the client disconnects, end it: RETRY_LATER.

    Raises ConnectionError if the client can no longer receive either.
    """
    if select.select([client], [], [], 0)[0]:  # the request was complete, so readable means closed
        return RETRY_LATER
    try:
        script = subprocess.Popen(  # noqa: S603 -- the unit's own command
            command, stdin=event, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environ, start_new_session=True
        )
    except OSError as exc:
        client.sendall(f"{command[0]}: {exc.strerror}\n".encode())
        return NOT_FOUND if isinstance(exc, FileNotFoundError) else NOT_EXECUTABLE
    assert script.stdout is not None  # noqa: S101 -- for the type checker
    with script.stdout as output:
        try:
            with FileIO(os.pidfd_open(script.pid)) as pidfd:
                client_is_connected = _send_output(output.fileno(), client, pidfd.fileno())
        finally:
            if script.poll() is None:
                _terminate(script)
    if not client_is_connected:
        _print_error("The client has disconnected; the script was ended.")
        return RETRY_LATER
    return script.returncode if script.returncode >= 0 else _SIGNAL_BASE - script.returncode


def _send_output(output: int, client: socket.socket, pidfd: int) -> bool:
    """Forward the script's output until the script itself exits. Return False if the client disconnected."""
    poller = select.poll()
    for descriptor in (output, pidfd, client.fileno()):
        poller.register(descriptor, select.POLLIN)
    chunks_left = _MAX_CHUNKS_AFTER_EXIT
    while chunks_left:
        ready = dict(poller.poll())
        if client.fileno() in ready:
            return False
        if output in ready:
            data = os.read(output, _CHUNK_SIZE)
            client.sendall(data)
            if not data:
                poller.unregister(output)
        elif pidfd in ready:
            return True
        chunks_left -= pidfd in ready
    return True


def _terminate(script: "subprocess.Popen[bytes]") -> None:
    """Send the script SIGTERM, then SIGKILL. systemd then ends all other processes of the unit.

    A script that runs as another user, for example through sudo, is left to systemd.
    """
    with contextlib.suppress(PermissionError):
        os.killpg(script.pid, signal.SIGTERM)
        try:
            script.wait(_TERMINATE_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(script.pid, signal.SIGKILL)
            script.wait()


def _print_error(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def _is_forwarded(name: str) -> bool:
    return _VARIABLE.fullmatch(name) is not None and name not in _RESERVED_VARIABLES


def main(arguments: Sequence[str]) -> int:
    """Run one end of the relay and return its exit code."""
    match arguments:
        case ["request", path]:
            return request(path)
        case ["serve", *command] if command:
            return serve(command)
    _print_error(f"usage: python -Im {_MODULE} request SOCKET | serve PROGRAM [ARGUMENT...]")
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
