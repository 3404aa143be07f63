"""What following events needs to remember, so that each is given once, through an outage as well."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from http import HTTPStatus

from receiver.domain.errors import ReceiverError, RequestFailed, ServiceUnreachable

BEFORE_ALL = "evt_" + "0" * 25
LOOK_BACK = 64

_TRANSIENT_STATUSES = (HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT)


class EventCursor:
    """Which events were heard. Ids are made a little before they are committed, so one may turn up behind others:
    the service is asked again from ``floor``, some way back, and what was heard already is left out."""

    def __init__(self, resume_from: str, recent: Sequence[str] = ()) -> None:
        self.resume_from = resume_from
        self._recent = deque(recent)

    def accept(self, event_id: str) -> bool:
        """Whether an event is heard for the first time, which it is no more from now on."""
        if event_id in self._recent:
            return False
        self._recent.append(event_id)
        if len(self._recent) > LOOK_BACK:
            self.resume_from = max(self.resume_from, self._recent.popleft())
        return True


class OutageTimer:
    """How long the service has been away, and whether that is to be borne."""

    def __init__(self, tolerance: Callable[[], float]) -> None:
        """*patience* tells how many seconds are to be borne."""
        self._tolerance = tolerance
        self._since: float | None = None

    def check(self, error: ReceiverError) -> None:
        """Take an error that may be an outage; raises it when it is none, or has lasted for too long."""
        now = asyncio.get_running_loop().time()
        if self._since is None:
            self._since = now
        if not _is_transient(error) or now - self._since >= self._tolerance():
            raise error

    def reset(self) -> None:
        """Take note that the service is there."""
        self._since = None


def _is_transient(error: ReceiverError) -> bool:
    """Whether an error is one of the moment, such as a service that is being started anew."""
    trouble = isinstance(error, RequestFailed) and error.status in _TRANSIENT_STATUSES
    return trouble or isinstance(error, ServiceUnreachable)
