"""What following events needs to remember, so that each is given once, through an outage as well."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from http import HTTPStatus

from receiver.domain.errors import ReceiverError, RequestFailed, ServiceUnreachable

BEFORE_ALL = "evt_" + "0" * 25
LOOK_BACK = 64

_OF_THE_MOMENT = (HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT)


class Heard:
    """Which events were heard. Ids are made a little before they are committed, so one may turn up behind others:
    the service is asked again from ``floor``, some way back, and what was heard already is left out."""

    def __init__(self, floor: str, recent: Sequence[str] = ()) -> None:
        self.floor = floor
        self._recent = deque(recent)

    def is_new(self, event_id: str) -> bool:
        """Whether an event is heard for the first time, which it is no more from now on."""
        if event_id in self._recent:
            return False
        self._recent.append(event_id)
        if len(self._recent) > LOOK_BACK:
            self.floor = max(self.floor, self._recent.popleft())
        return True


class Outage:
    """How long the service has been away, and whether that is to be borne."""

    def __init__(self, patience: Callable[[], float]) -> None:
        """*patience* tells how many seconds are to be borne."""
        self._patience = patience
        self._since: float | None = None

    def goes_on(self, error: ReceiverError) -> None:
        """Take an error that may be an outage; raises it when it is none, or has lasted for too long."""
        now = asyncio.get_running_loop().time()
        if self._since is None:
            self._since = now
        if not _is_away(error) or now - self._since >= self._patience():
            raise error

    def is_over(self) -> None:
        """Take note that the service is there."""
        self._since = None


def _is_away(error: ReceiverError) -> bool:
    """Whether an error is one of the moment, such as a service that is being started anew."""
    trouble = isinstance(error, RequestFailed) and error.status in _OF_THE_MOMENT
    return trouble or isinstance(error, ServiceUnreachable)
