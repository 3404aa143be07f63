"""SIGHUP: a request to reload the configuration, or the end of the terminal that the service runs in."""

import asyncio
import os
import signal
from types import FrameType


class SighupHandler:
    """SIGHUP sets ``requested``. If the service's terminal is gone, it stops the service instead.

    Install it before anything slow: without a handler the signal would end the process.
    """

    def __init__(self) -> None:
        self.requested = asyncio.Event()
        is_ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN  # started by nohup, to outlive its terminal
        self._ends_with_terminal = not is_ignored and _has_terminal()

    @classmethod
    def install(cls) -> "SighupHandler":
        """Handle the signal from now on, before an event loop runs."""
        sighup = cls()
        signal.signal(signal.SIGHUP, sighup._on_signal)
        return sighup

    def watch(self) -> None:
        """Handle the signal on the running event loop, so that it wakes the loop."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._on_signal)

    def _on_signal(self, _number: int = 0, _frame: FrameType | None = None) -> None:
        if self._ends_with_terminal and not _has_terminal():
            signal.raise_signal(signal.SIGTERM)
        else:
            self.requested.set()


def _has_terminal() -> bool:
    """Return whether this process has a controlling terminal."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True
