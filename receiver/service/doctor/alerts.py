"""Alerts: whether a route receives them, whether some are open, and whether the heartbeat's monitor can be reached."""

import asyncio
from collections.abc import Sequence
from urllib.parse import urlsplit

from receiver.domain.errors import AddressBlocked, NotFound, RequestNotSent
from receiver.domain.model import Json
from receiver.net.reachability import reach
from receiver.net.ssrf_guard import OperatorGuard
from receiver.service.doctor.check import CALL_LIMIT, Finding, Subject, failed, ok, warning

_MAX_LISTED = 100


async def alerts(subject: Subject) -> Finding:
    """Check that a route receives alerts, and that none is open."""
    receivers = [route.name for route in subject.settings.routes if route.on & {"alert", "*"}]
    if found := await _open_alerts(subject):
        return warning(
            f"{_count(len(found), has_more=len(found) == _MAX_LISTED)} not acknowledged. "
            f"The newest: {found[0]['message']}",
            "See `kling-receiver alerts list`. Acknowledge what is known: `kling-receiver alerts ack ID`.",
            open=len(found),
        )
    if not receivers:
        return warning(
            "No route receives alerts: a held route or a refused key is seen only in the log and in "
            "`kling-receiver alerts list`.",
            'Add a route with on = ["alert"], such as notify = { urls = ["..."] }.',
        )
    return ok(f"Alerts go to: {', '.join(receivers)}.", routes=receivers)


async def heartbeat(subject: Subject) -> Finding:
    """Check that the monitor of the heartbeat accepts connections. A request would count as a heartbeat."""
    secret = subject.settings.alerts.heartbeat
    if secret is None:
        return ok("No heartbeat is configured.")
    url = secret.reveal()
    host = urlsplit(url).hostname or ""
    remedy = "Correct `[alerts] heartbeat`, or check the firewall in between."
    try:
        async with asyncio.timeout(CALL_LIMIT.total_seconds()):
            await reach(url, guard=OperatorGuard())
    except TimeoutError:
        return failed(f"{host} accepts no connection within {CALL_LIMIT.total_seconds():g} s.", remedy, host=host)
    except (RequestNotSent, AddressBlocked) as exc:
        return failed(exc.message, exc.remedy or remedy, host=host)
    return ok(f"{host} accepts connections. Nothing was requested.", host=host)


async def _open_alerts(subject: Subject) -> Sequence[Json]:
    """Return the newest open alerts of the running service; none if it does not run or is too old to know them."""
    client = subject.service.client
    if client is None or not subject.service.is_running:
        return ()
    try:
        found: Sequence[Json] = (await client.get("/api/alerts", {"state": "open", "limit": str(_MAX_LISTED)}))["items"]
    except NotFound:
        return ()
    return found


def _count(number: int, *, has_more: bool) -> str:
    if has_more:
        return f"At least {number} alerts are"
    return "1 alert is" if number == 1 else f"{number} alerts are"
