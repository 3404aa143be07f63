"""The state of following events, so that each event is yielded once, across outages too."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from http import HTTPStatus

from receiver.domain.errors import ReceiverError, RequestFailed, ServiceUnreachable

BEFORE_ALL = "evt_" + "0" * 25
LOOK_BACK = 64

_TRANSIENT_STATUSES = (HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT)


class EventCursor:
    """Which events were received.

    IDs are created shortly before the commit, so an event may become visible after newer ones. The stream therefore
    resumes from ``resume_from``, some events back, and events that were already received are skipped.
    """

    def __init__(self, resume_from: str, recent: Sequence[str] = ()) -> None:
        self.resume_from = resume_from
        self._recent = deque(recent)

    def accept(self, event_id: str) -> bool:
        """Record an event and return whether it is new."""
        if event_id in self._recent:
            return False
        self._recent.append(event_id)
        if len(self._recent) > LOOK_BACK:
            self.resume_from = max(self.resume_from, self._recent.popleft())
        return True


class OutageTimer:
    """Measures an outage of the service and limits it."""

    def __init__(self, tolerance: Callable[[], float]) -> None:
        """*tolerance* returns how many seconds of outage are tolerated."""
        self._tolerance = tolerance
        self._since: float | None = None

    def check(self, error: ReceiverError) -> None:
        """Record an error; raise it if it is not transient or the outage has lasted too long."""
        now = asyncio.get_running_loop().time()
        if self._since is None:
            self._since = now
        if not _is_transient(error) or now - self._since >= self._tolerance():
            raise error

    def reset(self) -> None:
        """Record that the service responds."""
        self._since = None


def _is_transient(error: ReceiverError) -> bool:
    """Return whether an error may pass, as during a restart of the service."""
    is_unavailable = isinstance(error, RequestFailed) and error.status in _TRANSIENT_STATUSES
    return is_unavailable or isinstance(error, ServiceUnreachable)
