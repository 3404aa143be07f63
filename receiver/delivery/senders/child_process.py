"""Start a program in its own session with prepared descriptors, and reap it.

``subprocess`` takes 40 us more than ``os.posix_spawn``, but only it can change the folder or search for the program.
"""

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

_RESTORED_SIGNALS = (signal.SIGPIPE, signal.SIGXFSZ)  # Python ignores these
_FIRST_OTHER_DESCRIPTOR = 3  # after standard input, output and errors
_MAX_POLL_INTERVAL = 0.03


class ChildProcess:
    """A child of this process: its id, and its exit code once it has been reaped."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.code: int | None = None
        self._reaping = threading.Lock()  # a thread may wait for it

    def poll(self) -> int | None:
        """Reap it if it has exited. Return its exit code, or minus the signal's number; None while it runs."""
        with self._reaping:
            if self.code is None:
                try:
                    pid, status = os.waitpid(self.pid, os.WNOHANG)
                except ChildProcessError:  # the service was started with SIGCHLD ignored, so its code is unknown
                    self.code = 0
                else:
                    self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code

    def wait(self, seconds: float) -> None:
        """Block until it has exited, for at most *seconds*."""
        end, interval = time.monotonic() + seconds, 0.0005
        while self.poll() is None and (left := end - time.monotonic()) > 0:
            time.sleep(min(interval, left))
            interval = min(2 * interval, _MAX_POLL_INTERVAL)


def start(command: Sequence[str], *, event: int, output: int, cwd: Path | None, env: Mapping[str, str]) -> ChildProcess:
    """Start *command* with these descriptors as its standard input, output and errors, and no others.

    Raises OSError or ValueError if it cannot be started.
    """
    _close_inherited_on_exec()
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
def _close_inherited_on_exec() -> None:
    """Close in programs what this process was started with. Python opens all other files so that they are closed."""
    with contextlib.suppress(OSError):  # without /proc
        for path in Path("/proc/self/fd").iterdir():
            if (descriptor := int(path.name)) >= _FIRST_OTHER_DESCRIPTOR:
                with contextlib.suppress(OSError):  # the listing's own is closed
                    os.set_inheritable(descriptor, False)  # noqa: FBT003  # it takes no keywords
