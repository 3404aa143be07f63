"""Liveness and readiness over HTTP."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from http import HTTPStatus

from starlette.requests import Request
from starlette.responses import Response

from receiver.domain.api_schema.resources import Check, Liveness, Readiness
from receiver.web import serializers

_CHECK_TIMEOUT_SECONDS = 5.0


ReadinessCheck = Callable[[], Awaitable[Sequence[Check]]]
"""Checks the store, the listeners and the workers."""


def with_disk_check(check_readiness: ReadinessCheck, shortage: Callable[[], str]) -> ReadinessCheck:
    """Make the store's check fail while *shortage* returns a reason why nothing new can be stored."""

    async def checks() -> Sequence[Check]:
        reason, results = shortage(), await check_readiness()
        return [
            replace(check, ok=False, reason=reason) if reason and check.ok and check.name == "store" else check
            for check in results
        ]

    return checks


def with_archive_check(check_readiness: ReadinessCheck, find_problem: Callable[[], Awaitable[str]]) -> ReadinessCheck:
    """Add a check of the archive folder; *find_problem* returns why results cannot be written there."""

    async def checks() -> Sequence[Check]:
        problem, results = await asyncio.gather(find_problem(), check_readiness())
        return [*results, Check(name="archive", ok=not problem, reason=problem)]

    return checks


class HealthApi:
    """Answers ``/healthz`` and ``/readyz``, without a token."""

    def __init__(self, check_readiness: ReadinessCheck) -> None:
        self._check_readiness = check_readiness

    async def liveness(self, _request: Request) -> Response:
        """Answer 200 while the service can respond at all."""
        return serializers.json_response(Liveness(ok=True))

    async def readiness(self, _request: Request) -> Response:
        """Answer 200 if all checks pass, else 503 with each failed check's reason."""
        try:
            async with asyncio.timeout(_CHECK_TIMEOUT_SECONDS):
                checks = await self._check_readiness()
        except TimeoutError:
            checks = [Check(name="service", ok=False, reason=f"no response within {_CHECK_TIMEOUT_SECONDS:.0f} s")]
        is_ready = all(check.ok for check in checks)
        status = HTTPStatus.OK if is_ready else HTTPStatus.SERVICE_UNAVAILABLE
        return serializers.json_response(Readiness(ready=is_ready, checks=checks), status)
