"""Delivers by running a program: the event on its standard input, the verdict in its exit code."""

import contextlib
import errno
import json
import os
import re
import signal
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path, PurePosixPath

from receiver.delivery.senders.process import MAX_SHUTDOWN, ProcessResult, run
from receiver.delivery.senders.sender import DeliveryRequest
from receiver.domain.model import Accepted, Event, Failed, Json, Outcome, Refused, Secret
from receiver.events import payload
from receiver.settings import ScriptSettings

_UNSAFE = re.compile(r"[^A-Za-z0-9_./:-]")
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_EXIT_REASONS = {
    75: "asks to be tried again (exit 75)",
    126: "exited with 126: a command in it cannot be executed; look at its permissions",
    127: f"exited with 127: a command in it was not found; its PATH is the service's, else {_DEFAULT_PATH}",
}
_SIGNAL_BASE = 128  # what a shell adds to the number of the signal that killed a command of its own
_SIGNAL_HINTS = {
    signal.SIGKILL: "perhaps for want of memory",
    signal.SIGSEGV: "a fault of its own",
    signal.SIGABRT: "a fault of its own",
    signal.SIGSYS: "a system call that the service's sandbox does not allow",
    signal.SIGXCPU: "it used up its processor time",
}


_FORBIDDEN = (
    "the system forbids it, though its permissions do not. See to its interpreter, and to the service's sandbox."
)


class ScriptSender:
    """Runs a route's program once per attempt: no shell, a clean environment, a group of processes of its own."""

    def __init__(self, settings: ScriptSettings, *, environ: Mapping[str, str] | None = None) -> None:
        self._settings = settings
        self._environ = os.environ if environ is None else environ

    @property
    def timeout(self) -> timedelta:
        """The longest one attempt may take: the script's own time, and what ending it may add."""
        return self._settings.timeout + MAX_SHUTDOWN

    async def send(self, request: DeliveryRequest) -> Outcome:
        """Run the program once."""
        try:
            ended = await run(
                self._settings.command,
                content=payload.serialize(request.event),
                env=self._base_environment() | _variables(request),
                cwd=self._settings.cwd,
                time_limit=self._settings.timeout,
                output_limit=self._settings.output_limit,
            )
        except (OSError, ValueError) as exc:
            return Failed(reason=start_failure(self._settings, exc, path=self._base_environment()["PATH"]))
        return outcome_of(ended, name=self._settings.command[0], timeout=self._settings.timeout)

    async def aclose(self) -> None:
        """Nothing is kept between attempts."""

    def _base_environment(self) -> dict[str, str]:
        """Give the environment that every script has: three variables of ours, and what the route adds."""
        own = {
            "PATH": self._environ.get("PATH") or _DEFAULT_PATH,
            "LANG": self._environ.get("LANG") or "C.UTF-8",
            "HOME": self._environ.get("HOME") or "/",
        }
        added = self._settings.env.items()
        return own | {name: value.reveal() if isinstance(value, Secret) else value for name, value in added}


def outcome_of(result: ProcessResult, *, name: str, timeout: timedelta) -> Outcome:
    """Say what an exit means, in words that a person can act on."""
    code, excerpt = result.code, result.output
    if result.timed_out:
        seconds = timeout.total_seconds()
        reason = f"{name} ran longer than {seconds:g} s and was ended. Raise the route's timeout if it needs more."
        return Failed(reason=reason, excerpt=excerpt)
    match code:
        case 0:
            return Accepted(code=0, excerpt=excerpt)
        case _ if code < 0:
            return Failed(reason=f"{name} was killed by {_signal_name(-code)}.", code=code, excerpt=excerpt)
        case 65:
            reason = f"{name} says that this event can never be taken (exit 65). Its output says why."
            return Refused(reason=reason, code=code, excerpt=excerpt)
        case 78:
            reason = f"{name} says that it is not set up (exit 78). Mend that, then replay the event."
            return Refused(reason=reason, code=code, excerpt=excerpt)
        case _:
            return Failed(reason=f"{name} {_exit_reason(code)}.", code=code, excerpt=excerpt)


def start_failure(settings: ScriptSettings, exc: OSError | ValueError, *, path: str) -> str:
    """Say what keeps the program from being started, and how to mend it."""
    return f"{settings.command[0]} was not started: {_blocker(settings, exc, path=path)}"


def _blocker(settings: ScriptSettings, exc: OSError | ValueError, *, path: str) -> str:  # noqa: PLR0911  # one sentence per cause
    name, cwd = settings.command[0], settings.cwd
    if isinstance(exc, ValueError):
        return "its command or environment holds a character that cannot be passed on."
    if cwd is not None and (shut := _locked_folder(cwd)):
        return f"its folder {cwd} cannot be reached: {_enter_denied(shut)}"
    if cwd is not None and not cwd.is_dir():
        return f"its folder {cwd} does not exist. Make it, or correct the route's cwd."
    folders = [cwd or Path()] if "/" in name else [Path(folder) for folder in path.split(os.pathsep)]
    file = next((folder / name for folder in folders if os.access(folder / name, os.F_OK)), None)
    match exc:
        case FileNotFoundError() if file:
            return f"its interpreter {_interpreter(file)} does not exist. Correct its first line."
        case FileNotFoundError():
            place = "" if "/" in name else f" in {path}"
            return f"there is no such program{place}. Correct the route's command."
        case PermissionError() if file:
            return _exec_denied(file)
        case PermissionError():
            shut = next(filter(None, (_locked_folder(folder / name) for folder in folders)), None)
            return _enter_denied(shut) if shut else _FORBIDDEN
        case OSError(errno=errno.ENOEXEC):
            return "it is no program for this machine. Begin it with a line such as #!/bin/sh."
        case _:
            return f"{exc.strerror}."


def _exec_denied(file: Path) -> str:
    """Say why a file that is there may not be executed: for its own sake, or for its interpreter's."""
    if not file.is_file():
        return f"it is {'a folder' if file.is_dir() else 'no file'}. Correct the route's command."
    if not os.access(file, os.X_OK):
        return f"it may not be executed. Try chmod +x {file}; see its user and its mount."
    words = _first_line(file).removeprefix(b"#!").split(maxsplit=1)
    if not words:
        return _FORBIDDEN
    interpreter = Path(os.fsdecode(words[0]))
    if shut := _locked_folder(interpreter):
        return f"its interpreter {interpreter} cannot be reached: {_enter_denied(shut)}"
    if not os.access(interpreter, os.X_OK):
        return f"its interpreter may not be executed. Try chmod +x {interpreter}, or correct its first line."
    return _FORBIDDEN


def _locked_folder(path: Path) -> Path | None:
    """Find the first folder that may not be entered, of those that lead to *path* and that itself."""
    way = Path(os.path.realpath(path))
    return next(
        (each for each in (*reversed(way.parents), way) if each.is_dir() and not os.access(each, os.X_OK)), None
    )


def _enter_denied(folder: Path) -> str:
    return f"the folder {folder} may not be entered. Let the service's user in, as by chmod a+x {folder}."


def _interpreter(file: Path) -> str:
    """Name what a file that is there needs, and is not."""
    first = _first_line(file)
    words = first.removeprefix(b"#!").strip().decode(errors="replace")
    if first.endswith(b"\r\n"):
        words += " (with the carriage return at the line's end)"
    return words or "or a library it needs"


def _first_line(file: Path) -> bytes:
    """Give the line that names a file's interpreter, nothing where it names none or may not be read."""
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


def _variables(request: DeliveryRequest) -> dict[str, str]:
    """Give what a script can tell the event by without reading it; strangers' words are cut to harmless characters."""
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
        "KLING_ASSET_DIR": _asset_dir(data),
        "KLING_DELIVERY_ID": request.delivery_id,
    }
    return {name: _UNSAFE.sub("", "" if value is None else str(value)) for name, value in values.items()}


def _event_data(event: Event) -> Json:
    data = json.loads(event.envelope).get("data")
    return data if isinstance(data, dict) else {}


def _asset_dir(data: Json) -> str:
    """Give the folder that the event's downloaded results lie in, empty when none were downloaded.

    It is empty too where its name has other letters than may be given: half a name leads elsewhere.
    """
    paths = [asset.get("path") for asset in data.get("assets") or ()]
    folder = next((str(PurePosixPath(path).parent) for path in paths if path), "")
    return "" if _UNSAFE.search(folder) else folder
