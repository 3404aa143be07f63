"""Extras that the configuration or the environment asks for, and the collector of traces.

The settings refuse a route or a store whose extra is missing. The extras here are missed silently.
"""

import asyncio
import os
from collections.abc import Collection

from receiver.domain.errors import AddressBlocked, RequestNotSent
from receiver.net.reachability import reach
from receiver.net.ssrf_guard import OperatorGuard
from receiver.service.doctor.check import CALL_LIMIT, Finding, Subject, failed, ok, warning
from receiver.service.extras import how_to_install, installed_extras
from receiver.service.tracing import collector


def previews(subject: Subject) -> Finding:
    """Check that thumbnails can be made of archived pictures."""
    if not subject.settings.archive.is_on:
        return ok("The archive is off, so there is nothing to make thumbnails of.")
    if "previews" in _installed(subject):
        return ok("Thumbnails of archived pictures are made.")
    return warning(
        "The extra `previews` is not installed: the console shows archived pictures whole, which takes long.",
        f"{how_to_install('previews')} Then restart the service.",
    )


async def tracing(subject: Subject) -> Finding:
    """Check that traces can be sent, if variables of OpenTelemetry ask for them."""
    known = subject.service.diagnostics
    url = known.get("traces_to") if known else collector(os.environ)
    if url is None:
        return ok("Tracing is off: no OTEL_* variable turns it on.")
    if "otel" not in _installed(subject):
        return failed(
            f"Traces for {url} are not recorded: the extra `otel` is not installed.",
            f"{how_to_install('otel')} Then restart the service. Or unset the variables OTEL_*.",
            collector=url,
        )
    remedy = "Start the collector, or correct OTEL_EXPORTER_OTLP_ENDPOINT and restart the service."
    try:
        async with asyncio.timeout(CALL_LIMIT.total_seconds()):
            await reach(url, guard=OperatorGuard())
    except TimeoutError:
        return failed(f"{url} accepts no connection within {CALL_LIMIT.total_seconds():g} s.", remedy, collector=url)
    except (RequestNotSent, AddressBlocked) as exc:
        return failed(f"Traces are lost: {exc.message}", remedy, collector=url)
    return ok(f"{url} accepts connections. Nothing was sent.", collector=url)


def _installed(subject: Subject) -> Collection[str]:
    """Return the extras of the running service, else those that this command sees."""
    known = subject.service.diagnostics
    extras: Collection[str] = known["extras"] if "extras" in known else installed_extras()
    return extras
