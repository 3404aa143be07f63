"""How long a client tolerates an outage of the service."""

import asyncio
from collections.abc import Callable
from http import HTTPStatus

from receiver.domain.errors import ReceiverError, RequestFailed, ServiceUnreachable

_TRANSIENT_STATUSES = (HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT)


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
        if not is_transient(error) or now - self._since >= self._tolerance():
            raise error

    def reset(self) -> None:
        """Record that the service responds."""
        self._since = None


def is_transient(error: ReceiverError) -> bool:
    """Return whether an error may pass, as during a restart of the service."""
    is_unavailable = isinstance(error, RequestFailed) and error.status in _TRANSIENT_STATUSES
    return is_unavailable or isinstance(error, ServiceUnreachable)
