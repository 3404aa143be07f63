"""What waits or was lost: held routes, dead deliveries, the age of the backlog, and missed callbacks.

It is read from the store, so it is known while the service is stopped too.
"""

from collections.abc import Sequence
from datetime import timedelta

from receiver.domain.model import HeldBy
from receiver.service.doctor.check import CALL_LIMIT, Finding, Subject, failed, ok, warning
from receiver.service.stores import server_address
from receiver.settings.values import write_duration
from receiver.store.sqlite.examination import WaitingWork, waiting_work

_LATELY = timedelta(days=7)
_OLD_BACKLOG = timedelta(minutes=10)
_NOTHING_YET = "There is no store yet."


def held_routes(subject: Subject) -> Finding | Sequence[Finding]:
    """Check that no route is held."""
    work = _read(subject)
    if work is None:
        return ok(_NOTHING_YET)
    if not work.held:
        return ok("No route is held.")
    waiting = {each.route: each.pending for each in work.backlog}
    return [
        (warning if state.held_by is HeldBy.OPERATOR else failed)(
            f"The route {state.name} is held by {_holder(state.held_by)}: {state.held_why or 'no reason is stored'} "
            f"Deliveries that wait: {waiting.get(state.name, 0)}.",
            f"Repair its destination and run `kling-receiver routes test {state.name}`. Then "
            f"`kling-receiver routes release {state.name}` delivers what waits, oldest first.",
            route=state.name,
            pending=waiting.get(state.name, 0),
        )
        for state in work.held
    ]


def _holder(held_by: HeldBy | None) -> str:
    return "an operator" if held_by is HeldBy.OPERATOR else "its failures"


def dead(subject: Subject) -> Finding | Sequence[Finding]:
    """Check that no delivery died lately without being delivered again."""
    work = _read(subject)
    if work is None:
        return ok(_NOTHING_YET)
    if not work.dead:
        return ok(f"No delivery died in the last {_LATELY.days} days without being delivered again.")
    return [
        failed(
            f"Deliveries to {route} that died in the last {_LATELY.days} days and were not delivered again: {count}.",
            f"`kling-receiver deliveries list --status dead --route {route}` shows why. Then "
            f"`kling-receiver replay --route {route} --status dead --from 7d` delivers them again.",
            route=route,
            dead=count,
        )
        for route, count in work.dead.items()
    ]


def backlog(subject: Subject) -> Finding | Sequence[Finding]:
    """Check that no delivery waits for long."""
    work = _read(subject)
    if work is None:
        return ok(_NOTHING_YET)
    now = subject.clock.now()
    ages = {each.route: now - each.oldest for each in work.backlog}
    old = [
        warning(
            f"Deliveries to {each.route} that wait: {each.pending}, the oldest for {_rounded(ages[each.route])}.",
            f"`kling-receiver deliveries list --status pending --route {each.route}` shows the last failure of each.",
            route=each.route,
            pending=each.pending,
            oldest_seconds=round(ages[each.route].total_seconds()),
        )
        for each in work.backlog
        if ages[each.route] > _OLD_BACKLOG
    ]
    return old or ok(f"No delivery waits longer than {write_duration(_OLD_BACKLOG)}.")


def callbacks(subject: Subject) -> Finding:
    """Check that Kling's callbacks arrived lately."""
    if not subject.settings.public.url:
        return ok("[public] url is empty, so no callbacks are expected.")
    work = _read(subject)
    alert = work.callback_alert if work else None
    if work is None or alert is None:
        return ok("No alert about missed callbacks is stored.")
    counts, at = work.callback_counts(), alert.created_at.isoformat(timespec="seconds")
    details = {"at": at, "missed": counts.get("missed"), "of": counts.get("of")}
    if alert.type == "alert.callbacks_missed":
        return failed(
            f"Callbacks are missing since {at}: none arrived for {counts.get('missed')} of the last "
            f"{counts.get('of')} tasks. Polling found their results, late.",
            "Look at the checks public.* above. If they are ok, a firewall or a bot rule stops Kling alone.",
            **details,
        )
    if subject.clock.now() - alert.created_at < _LATELY:
        return warning(
            f"Callbacks were missing lately, and arrive again since {at}.",
            "`kling-receiver events list --type alert.callbacks_missed` shows when it began.",
            **details,
        )
    return ok(f"Callbacks arrive; they were last missing before {at}.", **details)


def _read(subject: Subject) -> WaitingWork | None:
    since = subject.clock.now() - _LATELY
    store = subject.settings.store
    if not store.url.is_postgres:
        return waiting_work(store.path, dead_since=since, time_limit=CALL_LIMIT)
    from receiver.store.postgres import examination  # noqa: PLC0415 -- its driver is an extra

    return examination.waiting_work(server_address(store), dead_since=since, time_limit=CALL_LIMIT)


def _rounded(age: timedelta) -> str:
    return write_duration(timedelta(seconds=round(age.total_seconds())))
