"""Start a program in its own session with prepared descriptors, learn its exit code, and reap it.

``subprocess`` takes 40 us more than ``os.posix_spawn``, but only it can change the folder or search for the program.
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

UNKNOWN_CODE = 256
"""The exit code of a program that something else in this process reaped. No program exits with it."""

_RESTORED_SIGNALS = (signal.SIGPIPE, signal.SIGXFSZ)  # Python ignores these
_FIRST_OTHER_DESCRIPTOR = 3  # after standard input, output and errors
_MAX_POLL_INTERVAL = 0.03
_ENDED_NOW = os.WEXITED | os.WNOHANG | os.WNOWAIT


class ChildProcess:
    """A child of this process: its id, and its exit code once it is known.

    The id belongs to it until ``reap``. After that, another process may get it.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.code: int | None = None

    def poll(self) -> int | None:
        """Return its exit code, or minus the signal's number; None while it runs."""
        if self.code is None:
            try:
                ended = os.waitid(os.P_PID, self.pid, _ENDED_NOW)
            except ChildProcessError:
                self.code = UNKNOWN_CODE
            else:
                if ended is not None:
                    self.code = ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
        return self.code

    def wait(self, seconds: float) -> None:
        """Block until it has exited, for at most *seconds*."""
        end, interval = time.monotonic() + seconds, 0.0005
        while self.poll() is None and (left := end - time.monotonic()) > 0:
            time.sleep(min(interval, left))
            interval = min(2 * interval, _MAX_POLL_INTERVAL)

    def reap(self) -> None:
        """Let the system use its id again, if it has exited."""
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, os.WNOHANG)


def start(command: Sequence[str], *, event: int, output: int, cwd: Path | None, env: Mapping[str, str]) -> ChildProcess:
    """Start *command* with these descriptors as its standard input, output and errors, and no others.

    Raises OSError or ValueError if it cannot be started.
    """
    _prepare_this_process()
    is_plain = cwd is None and "/" in command[0]
    if is_plain and min(event, output) >= _FIRST_OTHER_DESCRIPTOR:
        copies = [(os.POSIX_SPAWN_DUP2, source, target) for target, source in enumerate((event, output, output))]
        return ChildProcess(
            os.posix_spawn(
                command[0], tuple(command), env, file_actions=copies, setsid=True, setsigdef=_RESTORED_SIGNALS
            )
        )
    process = subprocess.Popen(  # noqa: S603  # the operator's own command
        command, stdin=event, stdout=output, stderr=output, cwd=cwd, env=env, start_new_session=True
    )
    process.returncode = 0  # ChildProcess reaps it
    return ChildProcess(process.pid)


@cache
def _prepare_this_process() -> None:
    """Undo what programs would inherit from the one that started this process: its files, and ignored exits.

    The system itself reaps the children of a process that ignores SIGCHLD, and their exit codes are lost.
    """
    _close_inherited_on_exec()
    if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
        with contextlib.suppress(ValueError):  # outside the main thread
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def _close_inherited_on_exec() -> None:
    """Close in programs what this process was started with. Python opens all other files so that they are closed."""
    with contextlib.suppress(OSError):  # without /proc
        for path in Path("/proc/self/fd").iterdir():
            if (descriptor := int(path.name)) >= _FIRST_OTHER_DESCRIPTOR:
                with contextlib.suppress(OSError):  # the listing's own is closed
                    os.set_inheritable(descriptor, False)  # noqa: FBT003  # it takes no keywords
