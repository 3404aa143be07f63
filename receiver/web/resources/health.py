"""Whether the service lives, and whether it can do its work."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus

from starlette.requests import Request
from starlette.responses import Response

from receiver.web import serializers

_CHECK_TIMEOUT_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that must be so for the service to do its work. ``reason`` says why it is not; anybody may read it."""

    name: str
    ok: bool
    reason: str = ""


ReadinessCheck = Callable[[], Awaitable[Sequence[Check]]]
"""Looks at the store, the listeners and the workers."""


def with_disk_check(check_readiness: ReadinessCheck, shortage: Callable[[], str]) -> ReadinessCheck:
    """Have the store's check fail as well while *shortage* says why nothing new can be stored."""

    async def checks() -> Sequence[Check]:
        why, looked_at = shortage(), await check_readiness()
        return [
            replace(check, ok=False, reason=why) if why and check.ok and check.name == "store" else check
            for check in looked_at
        ]

    return checks


class HealthApi:
    """Answers ``/healthz`` and ``/readyz``, to everybody."""

    def __init__(self, check_readiness: ReadinessCheck) -> None:
        self._check_readiness = check_readiness

    async def liveness(self, _request: Request) -> Response:
        """Say that we answer."""
        return serializers.json_response({"ok": True})

    async def readiness(self, _request: Request) -> Response:
        """Say whether everything is in order: 200, or 503 and what is not."""
        try:
            async with asyncio.timeout(_CHECK_TIMEOUT_SECONDS):
                checks = await self._check_readiness()
        except TimeoutError:
            checks = [Check(name="service", ok=False, reason=f"gave no answer within {_CHECK_TIMEOUT_SECONDS:.0f} s")]
        is_ready = all(check.ok for check in checks)
        status = HTTPStatus.OK if is_ready else HTTPStatus.SERVICE_UNAVAILABLE
        told = [{"name": check.name, "ok": check.ok, "reason": check.reason} for check in checks]
        return serializers.json_response({"ready": is_ready, "checks": told}, status)
