"""Whether the service lives, and whether it can do its work."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus

from starlette.requests import Request
from starlette.responses import Response

from receiver.web import serializers

_PATIENCE_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that must be so for the service to do its work. ``reason`` says why it is not; anybody may read it."""

    name: str
    ok: bool
    reason: str = ""


Ready = Callable[[], Awaitable[Sequence[Check]]]
"""Looks at the store, the listeners and the workers."""


def with_room(ready: Ready, shortage: Callable[[], str]) -> Ready:
    """Have the store's check fail as well while *shortage* says why nothing new can be stored."""

    async def checks() -> Sequence[Check]:
        why, looked_at = shortage(), await ready()
        return [
            replace(check, ok=False, reason=why) if why and check.ok and check.name == "store" else check
            for check in looked_at
        ]

    return checks


class Health:
    """Answers ``/healthz`` and ``/readyz``, to everybody."""

    def __init__(self, ready: Ready) -> None:
        self._ready = ready

    async def alive(self, _request: Request) -> Response:
        """Say that we answer."""
        return serializers.answer({"ok": True})

    async def ready(self, _request: Request) -> Response:
        """Say whether everything is in order: 200, or 503 and what is not."""
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                checks = await self._ready()
        except TimeoutError:
            checks = [Check(name="service", ok=False, reason=f"gave no answer within {_PATIENCE_SECONDS:.0f} s")]
        is_ready = all(check.ok for check in checks)
        status = HTTPStatus.OK if is_ready else HTTPStatus.SERVICE_UNAVAILABLE
        told = [{"name": check.name, "ok": check.ok, "reason": check.reason} for check in checks]
        return serializers.answer({"ready": is_ready, "checks": told}, status)
