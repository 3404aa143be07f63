"""Examines an installation: loads its configuration, asks the running service, and runs all checks at once."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

from receiver.client import Client
from receiver.domain.clock import SystemClock
from receiver.domain.errors import ConfigurationError, ReceiverError
from receiver.domain.redaction import Redactor
from receiver.domain.secret import Secret
from receiver.service.admin_token import TOKEN_FILE
from receiver.service.doctor import (
    alerts,
    configuration,
    deliveries,
    extras,
    kling,
    process,
    public_url,
    routes,
    store,
    units,
)
from receiver.service.doctor.check import CALL_LIMIT, Check, Finding, RunningService, Subject
from receiver.settings import Settings, load, secrets_in

CHECKS = (
    Check("service", process.service),
    Check("listeners", process.listeners),
    Check("versions", process.versions),
    Check("store.disk", store.disk),
    Check("store.file_system", store.file_system_type),
    Check("store.size", store.size),
    Check("store.sqlite", store.sqlite),
    Check("store.integrity", store.integrity),
    Check("kling", kling.key_and_clock),
    Check("public.address", public_url.address),
    Check("public.certificate", public_url.certificate),
    Check("public.probe", public_url.probe),
    Check("callbacks", deliveries.callbacks),
    Check("routes", routes.destinations),
    Check("routes.held", deliveries.held_routes),
    Check("deliveries.dead", deliveries.dead),
    Check("deliveries.backlog", deliveries.backlog),
    Check("alerts", alerts.alerts),
    Check("alerts.heartbeat", alerts.heartbeat),
    Check("previews", extras.previews),
    Check("tracing", extras.tracing),
    Check("limits.files", process.open_files),
    Check("limits.processes", process.processes),
    Check("runtime", process.runtime),
    Check("systemd", units.installed),
)
"""All checks, in the order of the report. Without a valid configuration, none can run; missing secrets are no fault."""


def examine(config: Path | None) -> Sequence[Finding]:
    """Return the findings about the installation that a configuration describes."""
    try:
        loaded = load(config)
        found = configuration.warnings(loaded)
    except ConfigurationError as error:
        try:
            loaded = load(config, needs_secrets=False)
        except ConfigurationError:
            return configuration.errors(error)
        found = configuration.missing_secrets(error)
    return [*found, *asyncio.run(_run_checks(loaded.settings, config))]


async def _run_checks(settings: Settings, config: Path | None) -> Sequence[Finding]:
    async with AsyncExitStack() as stack:
        service = await _find_service(config, stack)
        redactor = Redactor([*secrets_in(settings), *_stored_token(settings)])
        subject = Subject(settings=settings, service=service, redactor=redactor, clock=SystemClock())
        found = await asyncio.gather(*(check.run(subject) for check in CHECKS))
        return [_redacted(finding, redactor) for findings in found for finding in findings]


async def _find_service(config: Path | None, stack: AsyncExitStack) -> RunningService:
    try:
        client = await stack.enter_async_context(Client(config=config))
    except ReceiverError as exc:  # there is no token yet, so it has never run
        return RunningService(problem=exc)
    try:
        async with asyncio.timeout(CALL_LIMIT.total_seconds()):
            return RunningService(client=client, diagnostics=await client.get("/api/diagnostics"))
    except TimeoutError:
        seconds = CALL_LIMIT.total_seconds()
        problem = ReceiverError(
            f"The service at {client.url} accepts connections and does not answer within {seconds:g} s.",
            remedy="Look at its log. If it hangs, restart it.",
        )
        return RunningService(problem=problem)
    except ReceiverError as exc:
        return RunningService(problem=exc)


def _stored_token(settings: Settings) -> Sequence[Secret]:
    try:
        return [Secret((settings.data_dir / TOKEN_FILE).read_text(encoding="utf-8-sig").strip())]
    except (OSError, UnicodeDecodeError):
        return []


def _redacted(finding: Finding, redactor: Redactor) -> Finding:
    """Return a finding without secrets: a server may quote the key that it refuses."""
    details = {
        name: redactor.text(value) if isinstance(value, str) else value for name, value in finding.details.items()
    }
    return replace(
        finding, message=redactor.text(finding.message), remedy=redactor.text(finding.remedy), details=details
    )
