"""Deliver by running a program: it reads the event from standard input, its exit code is the outcome."""

import contextlib
import errno
import json
import os
import posixpath
import re
import signal
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import msgspec

from receiver.delivery.senders.child_process import UNKNOWN_CODE
from receiver.delivery.senders.process import MAX_SHUTDOWN, ProcessResult, run
from receiver.delivery.senders.sender import DeliveryRequest
from receiver.domain.model import Accepted, Event, Failed, Json, Outcome, Refused
from receiver.domain.secret import Secret
from receiver.domain.tracing import trace_headers
from receiver.events import payload
from receiver.settings import ScriptSettings

_decode_json = msgspec.json.Decoder().decode
_UNSAFE = re.compile(r"[^A-Za-z0-9_./:-]")
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_EXIT_REASONS = {
    UNKNOWN_CODE: "ended, and its exit code is unknown: it may have succeeded or failed",
    75: "asked for a retry (exit 75)",
    126: "exited with 126: a command in it cannot be executed; check its permissions",
    127: f"exited with 127: a command in it was not found; its PATH is the service's, or {_DEFAULT_PATH}",
}
_SIGNAL_BASE = 128  # a shell adds this to the number of the signal that killed its command
_SIGNAL_HINTS = {
    signal.SIGKILL: "possibly out of memory",
    signal.SIGSEGV: "a crash in the program",
    signal.SIGABRT: "a crash in the program",
    signal.SIGSYS: "a system call that the service's sandbox forbids",
    signal.SIGXCPU: "its CPU time limit is used up",
}


_FORBIDDEN = (
    "the system forbids it, although its permissions allow it. Check its interpreter and the service's sandbox."
)


class ScriptSender:
    """Runs a route's program once per attempt: no shell, a clean environment, its own process group."""

    def __init__(self, settings: ScriptSettings, *, environ: Mapping[str, str] | None = None) -> None:
        self._settings = settings
        self._environment = _base_environment(settings, os.environ if environ is None else environ)

    @property
    def timeout(self) -> timedelta:
        """The longest one attempt may take: the script's time limit plus the time to end it."""
        return self._settings.timeout + MAX_SHUTDOWN

    async def preview(self, event: Event) -> bytes:
        """Return what the program reads from standard input."""
        return payload.serialize(event)

    async def send(self, request: DeliveryRequest) -> Outcome:
        """Run the program once."""
        try:
            result = await run(
                self._settings.command,
                content=payload.serialize(request.event),
                env=self._environment | _variables(request) | _trace_variable(),
                cwd=self._settings.cwd,
                time_limit=self._settings.timeout,
                output_limit=self._settings.output_limit,
            )
        except (OSError, ValueError) as exc:
            reason = start_failure(self._settings, exc, path=self._environment["PATH"])
            return Failed(reason=reason, fault="script_start")
        return outcome_of(result, name=self._settings.command[0], timeout=self._settings.timeout)

    async def aclose(self) -> None:
        """Do nothing: no resources are kept between attempts."""


def outcome_of(result: ProcessResult, *, name: str, timeout: timedelta) -> Outcome:
    """Return the outcome of a program's exit, with a reason that says what to do."""
    code, excerpt = result.code, result.output
    if result.timed_out:
        seconds = timeout.total_seconds()
        reason = f"{name} ran longer than {seconds:g} s and was stopped. Raise the route's timeout if it needs longer."
        return Failed(reason=reason, excerpt=excerpt, fault="script_timeout")
    match code:
        case 0:
            return Accepted(code=0, excerpt=excerpt)
        case _ if code < 0:
            reason = f"{name} was killed by {_signal_name(-code)}."
            return Failed(reason=reason, code=code, excerpt=excerpt, fault="script_exit")
        case 65:
            reason = f"{name} refused this event for good (exit 65). Its output says why."
            return Refused(reason=reason, code=code, excerpt=excerpt)
        case 78:
            reason = f"{name} is not configured (exit 78). Fix that, then replay the event."
            return Refused(reason=reason, code=code, excerpt=excerpt)
        case _:
            known = None if code == UNKNOWN_CODE else code
            return Failed(reason=f"{name} {_exit_reason(code)}.", code=known, excerpt=excerpt, fault="script_exit")


def start_failure(settings: ScriptSettings, exc: OSError | ValueError, *, path: str) -> str:
    """Return why the program could not be started, and how to fix it."""
    return f"{settings.command[0]} was not started: {_blocker(settings, exc, path=path)}"


def _blocker(settings: ScriptSettings, exc: OSError | ValueError, *, path: str) -> str:  # noqa: PLR0911  # one return per cause
    name, cwd = settings.command[0], settings.cwd
    if isinstance(exc, ValueError):
        return "its command or environment contains a character that cannot be passed to a program."
    if cwd is not None and (locked := _locked_folder(cwd)):
        return f"its folder {cwd} cannot be reached: {_enter_denied(locked)}"
    if cwd is not None and not cwd.is_dir():
        return f"its folder {cwd} does not exist. Create it, or correct the route's cwd."
    folders = [cwd or Path()] if "/" in name else [Path(folder) for folder in path.split(os.pathsep)]
    file = next((folder / name for folder in folders if os.access(folder / name, os.F_OK)), None)
    match exc:
        case FileNotFoundError() if file:
            return f"its interpreter {_interpreter(file)} does not exist. Correct its first line."
        case FileNotFoundError():
            place = "" if "/" in name else f" in {path}"
            return f"program not found{place}. Correct the route's command."
        case PermissionError() if file:
            return _exec_denied(file)
        case PermissionError():
            locked = next(filter(None, (_locked_folder(folder / name) for folder in folders)), None)
            return _enter_denied(locked) if locked else _FORBIDDEN
        case OSError(errno=errno.ENOEXEC):
            return "it is not a program for this machine. Begin it with a line such as #!/bin/sh."
        case _:
            return f"{exc.strerror}."


def _exec_denied(file: Path) -> str:
    """Return why an existing file may not be executed: itself, or its interpreter."""
    if not file.is_file():
        return f"it is {'a folder' if file.is_dir() else 'not a regular file'}. Correct the route's command."
    if not os.access(file, os.X_OK):
        return f"it is not executable. Run `chmod +x {file}`; check its owner and its mount options."
    words = _first_line(file).removeprefix(b"#!").split(maxsplit=1)
    if not words:
        return _FORBIDDEN
    interpreter = Path(os.fsdecode(words[0]))
    if locked := _locked_folder(interpreter):
        return f"its interpreter {interpreter} cannot be reached: {_enter_denied(locked)}"
    if not os.access(interpreter, os.X_OK):
        return f"its interpreter is not executable. Run `chmod +x {interpreter}`, or correct its first line."
    return _FORBIDDEN


def _locked_folder(path: Path) -> Path | None:
    """Return the first folder on the way to *path*, or *path* itself, that may not be entered; None if all may."""
    target = Path(os.path.realpath(path))
    folders = (*reversed(target.parents), target)
    return next((folder for folder in folders if folder.is_dir() and not os.access(folder, os.X_OK)), None)


def _enter_denied(folder: Path) -> str:
    return f"the folder {folder} may not be entered. Give the service's user access: `chmod a+x {folder}`."


def _interpreter(file: Path) -> str:
    """Return the missing interpreter of an existing file, as written in its first line."""
    first = _first_line(file)
    words = first.removeprefix(b"#!").strip().decode(errors="replace")
    if first.endswith(b"\r\n"):
        words += " (with a carriage return at the end of the line)"
    return words or "or a library it needs"


def _first_line(file: Path) -> bytes:
    """Return the ``#!`` line of a file; empty if it has none or cannot be read."""
    first = b""
    with contextlib.suppress(OSError), file.open("rb") as content:
        first = content.readline(256)
    return first if first.startswith(b"#!") else b""


def _exit_reason(code: int) -> str:
    if words := _EXIT_REASONS.get(code):
        return words
    if code > _SIGNAL_BASE and (number := code - _SIGNAL_BASE) in set(signal.Signals):
        return f"exited with {code}: a command in it was killed by {_signal_name(number)}"
    return f"exited with {code}; its output says why"


def _signal_name(number: int) -> str:
    try:
        known = signal.Signals(number)
    except ValueError:
        return f"signal {number}"
    hint = _SIGNAL_HINTS.get(known)
    return f"{known.name} ({hint})" if hint else known.name


def _base_environment(settings: ScriptSettings, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of every script: PATH, LANG, HOME and the route's own variables."""
    own = {
        "PATH": environ.get("PATH") or _DEFAULT_PATH,
        "LANG": environ.get("LANG") or "C.UTF-8",
        "HOME": environ.get("HOME") or "/",
    }
    added = settings.env.items()
    return own | {name: value.reveal() if isinstance(value, Secret) else value for name, value in added}


def _variables(request: DeliveryRequest) -> dict[str, str]:
    """Return the KLING_ variables of an event. Untrusted values are reduced to safe characters."""
    data = _event_data(request.event)
    task = data.get("task") or {}
    values = {
        "KLING_EVENT_ID": request.event.id,
        "KLING_EVENT_TYPE": request.event.type,
        "KLING_STATUS": data.get("status"),
        "KLING_TASK_ID": task.get("kling_id"),
        "KLING_EXTERNAL_TASK_ID": task.get("external_task_id"),
        "KLING_RECEIVER_TASK": task.get("id"),
        "KLING_ENDPOINT": task.get("endpoint"),
        "KLING_ATTEMPT": request.attempt,
        "KLING_DELIVERY_ID": request.delivery_id,
    }
    if folder := _asset_dir(data):  # otherwise absent: an empty one would turn "$KLING_ASSET_DIR"/* into /*
        values["KLING_ASSET_DIR"] = folder
    texts = {name: "" if value is None else str(value) for name, value in values.items()}
    if _UNSAFE.search("".join(texts.values())):
        return {name: _UNSAFE.sub("", text) for name, text in texts.items()}
    return texts


def _trace_variable() -> dict[str, str]:
    """Return the variable that continues the current trace in the program."""
    return {name.upper(): value for name, value in trace_headers().items()}


def _event_data(event: Event) -> Json:
    try:
        document = _decode_json(event.envelope)
    except ValueError:  # half of a surrogate pair
        document = json.loads(event.envelope)
    data = document.get("data")
    return data if isinstance(data, dict) else {}


def _asset_dir(data: Json) -> str:
    """Return the folder of the event's downloaded results; empty if there are none.

    It is also empty if its name has unsafe characters: a shortened name would be another folder.
    """
    path = next((path for asset in data.get("assets") or () if (path := asset.get("path"))), "")
    if not path:
        return ""
    folder = posixpath.dirname(path)
    return "" if _UNSAFE.search(folder) else folder
