"""Runs a route's script where the service's sandbox does not reach: in a unit of its own, made anew for each attempt.

    the route's command     python -Im receiver.relay ask /run/kling-receiver-script.sock
    the unit's ExecStart    python -Im receiver.relay run /usr/local/bin/publish --fast

Over the socket go one line of JSON, the KLING_ variables and a word, and then the event; back come the output of the
script and in the end a line of that word and the exit code. Who hangs up ends the script; a script without an end is
a failed attempt. It imports nothing of ours, so that it starts as quickly as can be.
"""

import json
import os
import re
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import IO

TRY_AGAIN = 75
NOT_FOUND = 127
NOT_EXECUTABLE = 126

_VARIABLE = re.compile(r"KLING_[A-Z_]+")
_OF_THE_SERVICE = frozenset({"KLING_RUN"})  # by this the service would take the unit's processes for its own
_PIECE = 65536
_PIECES_AFTER_THE_END = 64  # what a script leaves behind may go on writing for ever
_PATIENCE_SECONDS = 5
_SIGNAL_BASE = 128


def ask(path: str) -> int:
    """Have the unit behind the socket at *path* run its script; pass its output on and give its exit code."""
    word = secrets.token_hex(16)
    variables = {name: value for name, value in os.environ.items() if _is_told(name)}
    head = json.dumps({"word": word, "variables": variables}).encode()
    with socket.socket(socket.AF_UNIX) as unit:
        try:
            unit.connect(path)
            unit.sendall(head + b"\n" + sys.stdin.buffer.read())
            unit.shutdown(socket.SHUT_WR)
            return _pass_on(unit, f"\n{word} ".encode())
        except OSError as exc:
            _say(f"{path}: {exc.strerror}. Is its socket unit started, and may the service use it?")
            return TRY_AGAIN


def _pass_on(unit: socket.socket, mark: bytes) -> int:
    """Write out what comes until *mark*, whoever still holds the other end; what follows the mark is the exit code."""
    held = b""
    while data := unit.recv(_PIECE):
        held += data
        output, found, end = held.partition(mark)
        if found and b"\n" in end:
            _write(output)
            return int(end.partition(b"\n")[0])
        if not found:
            _write(held[: -len(mark)])
            held = held[-len(mark) :]
    _write(held)
    _say("The unit ended before its script did; its journal says why.")
    return TRY_AGAIN


def _write(output: bytes) -> None:
    sys.stdout.buffer.write(output)
    sys.stdout.buffer.flush()


def run(command: Sequence[str]) -> int:
    """Run *command* for whoever is at the other end of standard input, a socket."""
    with socket.socket(fileno=os.dup(sys.stdin.fileno())) as asker, tempfile.TemporaryFile() as event:
        with asker.makefile("rb") as asked:
            head = json.loads(asked.readline())
            shutil.copyfileobj(asked, event)
        event.seek(0)
        variables = {name: str(value) for name, value in head["variables"].items() if _is_told(name)}
        try:
            code = _run(command, asker, event, {**os.environ, **variables})
            asker.sendall(f"\n{head['word']} {code}\n".encode())
        except ConnectionError:
            _say("Whoever asked has hung up; the script was ended.")
            return 1
    return 0


def _run(command: Sequence[str], asker: socket.socket, event: IO[bytes], environ: Mapping[str, str]) -> int:
    """Give the exit code as a shell would. Raises ConnectionError when the asker hung up; then the script has ended."""
    try:
        script = subprocess.Popen(  # noqa: S603 -- the unit's own command
            command, stdin=event, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environ, start_new_session=True
        )
    except OSError as exc:
        asker.sendall(f"{command[0]}: {exc.strerror}\n".encode())
        return NOT_FOUND if isinstance(exc, FileNotFoundError) else NOT_EXECUTABLE
    assert script.stdout is not None  # noqa: S101 -- for the type checker
    with script.stdout as output:
        try:
            _pass_back(output.fileno(), asker, os.pidfd_open(script.pid))
        finally:
            if script.poll() is None:
                _end(script)
    return script.returncode if script.returncode >= 0 else _SIGNAL_BASE - script.returncode


def _pass_back(output: int, asker: socket.socket, exited: int) -> None:
    """Send what the script writes until it has exited, whoever still holds its output."""
    ends = select.poll()
    for end, what in ((output, select.POLLIN), (exited, select.POLLIN), (asker.fileno(), 0)):
        ends.register(end, what)  # of a hang-up it tells unasked
    pieces_left = _PIECES_AFTER_THE_END
    while pieces_left:
        ready = dict(ends.poll())
        if asker.fileno() in ready:
            raise ConnectionResetError
        if output in ready:
            data = os.read(output, _PIECE)
            asker.sendall(data)
            if not data:
                ends.unregister(output)
        elif exited in ready:
            return
        pieces_left -= exited in ready


def _end(script: "subprocess.Popen[bytes]") -> None:
    """Ask a script to end, kill it when it does not; systemd then ends whatever else is in the unit."""
    os.killpg(script.pid, signal.SIGTERM)
    try:
        script.wait(_PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(script.pid, signal.SIGKILL)
        script.wait()


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def _is_told(name: str) -> bool:
    return _VARIABLE.fullmatch(name) is not None and name not in _OF_THE_SERVICE


def main(arguments: Sequence[str]) -> int:
    """Be one of the two ends."""
    match arguments:
        case ["ask", path]:
            return ask(path)
        case ["run", *command] if command:
            return run(command)
    _say("usage: python -Im receiver.relay ask SOCKET | run PROGRAM [ARGUMENT...]")
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
