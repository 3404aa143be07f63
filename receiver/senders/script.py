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

from receiver import payload
from receiver.model import Accepted, Event, Failed, Json, Outcome, Refused, Secret
from receiver.senders import Parcel
from receiver.senders.processes import LONGEST_END, Ended, run
from receiver.settings import ScriptSettings

_UNSAFE = re.compile(r"[^A-Za-z0-9_./:-]")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_EXIT_WORDS = {
    75: "asks to be tried again (exit 75)",
    126: "exited with 126: a command in it cannot be executed; look at its permissions",
    127: f"exited with 127: a command in it was not found; its PATH is the service's, else {_PATH}",
}
_SIGNAL_BASE = 128  # what a shell adds to the number of the signal that killed a command of its own
_SIGNAL_HINTS = {
    signal.SIGKILL: "perhaps for want of memory",
    signal.SIGSEGV: "a fault of its own",
    signal.SIGABRT: "a fault of its own",
    signal.SIGSYS: "a system call that the service's sandbox does not allow",
    signal.SIGXCPU: "it used up its processor time",
}


class ScriptSender:
    """Runs a route's program once per attempt: no shell, a clean environment, a group of processes of its own."""

    def __init__(self, settings: ScriptSettings, *, environ: Mapping[str, str] | None = None) -> None:
        self._settings = settings
        self._environ = os.environ if environ is None else environ

    @property
    def timeout(self) -> timedelta:
        """The longest one attempt may take: the script's own time, and what ending it may add."""
        return self._settings.timeout + LONGEST_END

    async def send(self, parcel: Parcel) -> Outcome:
        """Run the program once."""
        try:
            ended = await run(
                self._settings.command,
                content=payload.joined(parcel.event),
                env=self._clean() | _variables(parcel),
                cwd=self._settings.cwd,
                within=self._settings.timeout,
                keep=self._settings.output_limit,
            )
        except (OSError, ValueError) as exc:
            return Failed(reason=why_not_started(self._settings, exc, path=self._clean()["PATH"]))
        return judge(ended, name=self._settings.command[0], timeout=self._settings.timeout)

    async def aclose(self) -> None:
        """Nothing is kept between attempts."""

    def _clean(self) -> dict[str, str]:
        """Give the environment that every script has: three variables of ours, and what the route adds."""
        own = {
            "PATH": self._environ.get("PATH") or _PATH,
            "LANG": self._environ.get("LANG") or "C.UTF-8",
            "HOME": self._environ.get("HOME") or "/",
        }
        added = self._settings.env.items()
        return own | {name: value.reveal() if isinstance(value, Secret) else value for name, value in added}


def judge(ended: Ended, *, name: str, timeout: timedelta) -> Outcome:
    """Say what an exit means, in words that a person can act on."""
    code, excerpt = ended.code, ended.output
    if ended.timed_out:
        seconds = timeout.total_seconds()
        reason = f"{name} ran longer than {seconds:g} s and was ended. Raise the route's timeout if it needs more."
        return Failed(reason=reason, excerpt=excerpt)
    match code:
        case 0:
            return Accepted(code=0, excerpt=excerpt)
        case _ if code < 0:
            return Failed(reason=f"{name} was killed by {_signal_words(-code)}.", code=code, excerpt=excerpt)
        case 65:
            reason = f"{name} says that this event can never be taken (exit 65). Its output says why."
            return Refused(reason=reason, code=code, excerpt=excerpt)
        case 78:
            reason = f"{name} says that it is not set up (exit 78). Mend that, then replay the event."
            return Refused(reason=reason, code=code, excerpt=excerpt)
        case _:
            return Failed(reason=f"{name} {_exit_words(code)}.", code=code, excerpt=excerpt)


def why_not_started(settings: ScriptSettings, exc: OSError | ValueError, *, path: str) -> str:  # noqa: PLR0911  # one sentence per cause
    """Say what keeps the program from being started, and how to mend it."""
    name, cwd = settings.command[0], settings.cwd
    if cwd is not None and not cwd.is_dir():
        return f"{name} was not started: its folder {cwd} does not exist. Make it, or correct the route's cwd."
    if cwd is not None and not os.access(cwd, os.X_OK):
        return f"{name} was not started: its folder {cwd} may not be entered. See to its permissions."
    file = _find(name, path, cwd)
    match exc:
        case FileNotFoundError() if file is None:
            place = "" if "/" in name else f" in {path}"
            return f"{name} was not started: there is no such program{place}. Correct the route's command."
        case FileNotFoundError():
            interpreter = _interpreter(file)
            return f"{name} was not started: its interpreter {interpreter} does not exist. Correct its first line."
        case PermissionError() if file is not None and file.is_dir():
            return f"{name} was not started: it is a folder. Correct the route's command."
        case PermissionError():
            where = str(file or name)
            return f"{name} was not started: it may not be executed. Try chmod +x {where}; see its user and its mount."
        case OSError(errno=errno.ENOEXEC):
            return f"{name} was not started: it is no program for this machine. Begin it with a line such as #!/bin/sh."
        case OSError():
            return f"{name} was not started: {exc.strerror}."
        case _:
            return f"{name} was not started: its command or environment holds a character that cannot be passed on."


def _find(name: str, path: str, cwd: Path | None) -> Path | None:
    """Find the file that *name* means, whether or not it can be run."""
    folders = [cwd or Path()] if "/" in name else [Path(folder) for folder in path.split(os.pathsep)]
    return next((folder / name for folder in folders if (folder / name).exists()), None)


def _interpreter(file: Path | None) -> str:
    first = b""
    if file is not None:
        with contextlib.suppress(OSError), file.open("rb") as content:
            first = content.readline(256)
    words = first.removeprefix(b"#!").strip().decode(errors="replace")
    if first.endswith(b"\r\n"):
        words += " (with the carriage return at the line's end)"
    return words if first.startswith(b"#!") else "or a library it needs"


def _exit_words(code: int) -> str:
    if words := _EXIT_WORDS.get(code):
        return words
    if code > _SIGNAL_BASE and (number := code - _SIGNAL_BASE) in set(signal.Signals):
        return f"exited with {code}: a command in it was killed by {_signal_words(number)}"
    return f"exited with {code}; its output says why"


def _signal_words(number: int) -> str:
    try:
        known = signal.Signals(number)
    except ValueError:
        return f"signal {number}"
    hint = _SIGNAL_HINTS.get(known)
    return f"{known.name} ({hint})" if hint else known.name


def _variables(parcel: Parcel) -> dict[str, str]:
    """Give what a script can tell the event by without reading it; strangers' words are cut to harmless characters."""
    data = _data(parcel.event)
    task = data.get("task") or {}
    values = {
        "KLING_EVENT_ID": parcel.event.id,
        "KLING_EVENT_TYPE": parcel.event.type,
        "KLING_STATUS": data.get("status"),
        "KLING_TASK_ID": task.get("kling_id"),
        "KLING_EXTERNAL_TASK_ID": task.get("external_task_id"),
        "KLING_RECEIVER_TASK": task.get("id"),
        "KLING_ENDPOINT": task.get("endpoint"),
        "KLING_ATTEMPT": parcel.attempt,
        "KLING_ASSET_DIR": _asset_dir(data),
        "KLING_DELIVERY_ID": parcel.delivery_id,
    }
    return {name: _UNSAFE.sub("", "" if value is None else str(value)) for name, value in values.items()}


def _data(event: Event) -> Json:
    data = json.loads(event.envelope).get("data")
    return data if isinstance(data, dict) else {}


def _asset_dir(data: Json) -> str:
    """Give the folder that the event's downloaded results lie in, empty when none were downloaded.

    It is empty too where its name has other letters than may be given: half a name leads elsewhere.
    """
    paths = [asset.get("path") for asset in data.get("assets") or ()]
    folder = next((str(PurePosixPath(path).parent) for path in paths if path), "")
    return "" if _UNSAFE.search(folder) else folder
