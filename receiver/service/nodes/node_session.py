"""A session of the database that ends with this process, so that other nodes notice at once if it is killed."""

import asyncio
import time
from collections.abc import Callable

import structlog

from receiver.domain.errors import StoreError
from receiver.store.interfaces.nodes import NodeIdentity, NodeStore

log = structlog.get_logger()

_SHORT_PAUSE = 0.05
_LONG_PAUSE = 1.0


class NodeSession:
    """Keeps a session open, and opens another one if it ends. ``changed`` is set when it was opened or has ended."""

    def __init__(
        self, store: NodeStore, node: NodeIdentity, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._store = store
        self._node = node
        self._monotonic = monotonic
        self._opened_at: float | None = None
        self.changed = asyncio.Event()

    @property
    def is_open(self) -> bool:
        """Whether other nodes see the session."""
        return self._opened_at is not None

    @property
    def age(self) -> float:
        """How many seconds the session has been open: for so long, the server has not been restarted."""
        return 0.0 if self._opened_at is None else self._monotonic() - self._opened_at

    async def run(self) -> None:
        """Keep a session open until cancelled, if other nodes can see it."""
        was_refused = False
        while True:
            age = 0.0
            try:
                async with self._store.session(self._node) as ended:
                    if ended is not None:
                        self._set(self._monotonic())
                    await (ended or asyncio.Event()).wait()
                    age = self.age
            except StoreError as exc:
                if not was_refused:
                    log.warning("session.refused", reason=exc.message, remedy="Until then, a takeover takes longer.")
                was_refused = True
            finally:
                self._set(None)
            await asyncio.sleep(_SHORT_PAUSE if age > _LONG_PAUSE else _LONG_PAUSE)

    def _set(self, opened_at: float | None) -> None:
        if opened_at != self._opened_at:
            self._opened_at = opened_at
            self.changed.set()
