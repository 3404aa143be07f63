"""Runs a route's script where the service's sandbox does not reach: in a unit of its own, made anew for each attempt.

    the route's command     python -Im receiver.relay ask /run/kling-receiver-script.sock
    the unit's ExecStart    python -Im receiver.relay run /usr/local/bin/publish --fast

Over the socket go one line of JSON, the KLING_ variables, a word and the event's length, and then the event; back come
the output of the script and in the end a line of that word and the exit code. Who hangs up ends the script; a script
without an end is a failed attempt. Told to end, `ask` hangs up with its own half alone and waits for the other: systemd
keeps it until the unit is gone with all that was in it, so no other attempt begins before. It imports nothing of ours,
so that it starts as quickly as can be.
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
from typing import IO, Any

TRY_AGAIN = 75
NOT_FOUND = 127
NOT_EXECUTABLE = 126

_VARIABLE = re.compile(r"KLING_[A-Z_]+")
_RESERVED_VARIABLES = frozenset({"KLING_RUN"})  # by this the service would take the unit's processes for its own
_CHUNK_SIZE = 65536
_MAX_CHUNKS_AFTER_EXIT = 64  # what a script leaves behind may go on writing for ever
_TERMINATE_SECONDS = 3  # of the five that `ask` has; the unit's strays need some too
_SIGNAL_BASE = 128


def request(path: str) -> int:
    """Have the unit behind the socket at *path* run its script; pass its output on and give its exit code."""
    word = secrets.token_hex(16)
    variables = {name: value for name, value in os.environ.items() if _is_forwarded(name)}
    event = sys.stdin.buffer.read()
    head = json.dumps({"word": word, "variables": variables, "length": len(event)}).encode()
    with socket.socket(socket.AF_UNIX) as unit:
        signal.signal(signal.SIGTERM, lambda *_: _close_sending_half(unit))
        try:
            unit.connect(path)
            unit.sendall(head + b"\n" + event)
            return _forward_output(unit, f"\n{word} ".encode())
        except OSError as exc:
            _print_error(f"{path}: {exc.strerror}. Is its socket unit started, and may the service use it?")
            return TRY_AGAIN


def _close_sending_half(unit: socket.socket) -> None:
    with contextlib.suppress(OSError):  # over already
        unit.shutdown(socket.SHUT_WR)


def _forward_output(unit: socket.socket, marker: bytes) -> int:
    """Write out what comes until *mark*; what follows the mark is the exit code.

    After a success it matters to nobody who still holds the other end; after a failure all of the unit must be gone.
    """
    held = b""
    while data := unit.recv(_CHUNK_SIZE):
        held += data
        output, found, end = held.partition(marker)
        if found and b"\n" in end:
            _write(output)
            code = int(end.partition(b"\n")[0])
            while code and unit.recv(_CHUNK_SIZE):
                pass
            return code
        if not found:
            _write(held[: -len(marker)])
            held = held[-len(marker) :]
    _write(held)
    _print_error("The unit ended before its script did; its journal says why.")
    return TRY_AGAIN


def _write(output: bytes) -> None:
    sys.stdout.buffer.write(output)
    sys.stdout.buffer.flush()


def serve(command: Sequence[str]) -> int:
    """Run *command* for whoever is at the other end of standard input, a socket."""
    with socket.socket(fileno=os.dup(sys.stdin.fileno())) as asker, tempfile.TemporaryFile() as event:
        try:
            head = _read_request(asker, event)
            variables = {name: str(value) for name, value in head["variables"].items() if _is_forwarded(name)}
            code = _run_script(command, asker, event, {**os.environ, **variables})
            asker.sendall(f"\n{head['word']} {code}\n".encode())
        except ConnectionError:
            _print_error("Whoever asked has hung up.")
            return 1
    return 0


def _read_request(client: socket.socket, event: IO[bytes]) -> dict[str, Any]:
    """Give the asker's line of JSON and write the event. Raises ConnectionError when no more than a part of it came."""
    with client.makefile("rb") as asked:
        line = asked.readline()
        if line.endswith(b"\n"):
            head: dict[str, Any] = json.loads(line)
            if event.write(asked.read(head["length"])) == head["length"]:
                event.seek(0)
                return head
    raise ConnectionResetError


def _run_script(command: Sequence[str], client: socket.socket, event: IO[bytes], environ: Mapping[str, str]) -> int:
    """Give the exit code as a shell would, TRY_AGAIN when the asker hung up; then the script has ended.

    Raises ConnectionError when the asker does not listen either.
    """
    if select.select([client], [], [], 0)[0]:  # it has said all that it had to: this is its end
        return TRY_AGAIN
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
            is_waited_for = _send_output(output.fileno(), client, os.pidfd_open(script.pid))
        finally:
            if script.poll() is None:
                _terminate(script)
    if not is_waited_for:
        _print_error("Whoever asked has hung up; the script was ended.")
        return TRY_AGAIN
    return script.returncode if script.returncode >= 0 else _SIGNAL_BASE - script.returncode


def _send_output(output: int, client: socket.socket, pidfd: int) -> bool:
    """Send what the script writes until it has exited, whoever still holds its output; False when the asker hung up."""
    ends = select.poll()
    for end in (output, pidfd, client.fileno()):
        ends.register(end, select.POLLIN)
    pieces_left = _MAX_CHUNKS_AFTER_EXIT
    while pieces_left:
        ready = dict(ends.poll())
        if client.fileno() in ready:
            return False
        if output in ready:
            data = os.read(output, _CHUNK_SIZE)
            client.sendall(data)
            if not data:
                ends.unregister(output)
        elif pidfd in ready:
            return True
        pieces_left -= pidfd in ready
    return True


def _terminate(script: "subprocess.Popen[bytes]") -> None:
    """Ask a script to end, kill it when it does not; systemd then ends whatever else is in the unit.

    One that has become another account's, as by sudo, is left to systemd altogether.
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
    """Be one of the two ends."""
    match arguments:
        case ["ask", path]:
            return request(path)
        case ["run", *command] if command:
            return serve(command)
    _print_error("usage: python -Im receiver.relay ask SOCKET | run PROGRAM [ARGUMENT...]")
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
