"""Wait for the exits of many processes with one descriptor in the event loop.

To add a descriptor to the event loop and to remove it takes a handle and eight system calls. The epoll of a watcher
needs two.
"""

import asyncio
import os
import select
import sys
from weakref import WeakKeyDictionary


class ExitWatcher:
    """Wakes those who wait for the exit of a process, on one event loop."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._exits: dict[int, asyncio.Future[bool]] = {}  # by the descriptor of the process
        asyncio.get_running_loop().add_reader(self._epoll.fileno(), self._wake)

    async def wait(self, pidfd: int, seconds: float) -> bool:
        """Wait for the exit of a process, at most for *seconds*. Return whether it has exited."""
        loop = asyncio.get_running_loop()
        exit_: asyncio.Future[bool] = loop.create_future()
        self._epoll.register(pidfd, select.EPOLLIN | select.EPOLLONESHOT)
        self._exits[pidfd] = exit_
        # asyncio.timeout() costs 15 us more.
        timer = loop.call_later(seconds, _resolve, exit_, False)  # noqa: FBT003  # see _resolve
        try:
            return await exit_
        finally:
            timer.cancel()
            self._exits.pop(pidfd, None)
            self._epoll.unregister(pidfd)

    def _wake(self) -> None:
        for pidfd, _ in self._epoll.poll(0):
            _resolve(self._exits.pop(pidfd), True)  # noqa: FBT003  # see _resolve


def exit_watcher() -> ExitWatcher:
    """Return the watcher of the running event loop."""
    loop = asyncio.get_running_loop()
    found = _watchers.get(loop)
    if found is None:
        found = _watchers[loop] = ExitWatcher()
    return found


_watchers: WeakKeyDictionary[asyncio.AbstractEventLoop, ExitWatcher] = WeakKeyDictionary()


def open_pidfd(process_id: int) -> int:
    """Open a descriptor that becomes readable when the process exits, without reaping it."""
    if sys.platform != "linux":
        raise OSError("pidfd_open needs Linux")
    return os.pidfd_open(process_id)


def _resolve(exit_: "asyncio.Future[bool]", has_exited: bool) -> None:  # noqa: FBT001  # the future's result
    if not exit_.done():  # else its waiter was cancelled, or the timer and the exit came together
        exit_.set_result(has_exited)
