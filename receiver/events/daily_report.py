"""Writes the daily report. Pure."""

from datetime import datetime

from receiver.domain.clock import iso
from receiver.domain.daily_report import ReportFacts
from receiver.domain.model import Json
from receiver.domain.quantity_text import amount_text


def report_data(facts: ReportFacts, *, day: str, since: datetime, until: datetime, missed_before: float) -> Json:
    """Return the ``data`` of the report of a *day*: what happened from *since* to *until*, and what is so now."""
    missed = max(0, round(facts.callbacks_missed - missed_before))
    ended = {state.value: number for state, number in facts.ended.items()}
    spent = {unit: format(facts.spent[unit], "f") for unit in sorted(facts.spent)}
    return {
        "message": " ".join(
            [
                f"Tasks ended: {_counted(ended)}.",
                f"Spent: {', '.join(amount_text(amount, unit) for unit, amount in spent.items()) or 'nothing'}.",
                f"Dead deliveries: {sum(facts.dead.values())}. Missed callbacks: {missed}.",
                f"Held routes: {', '.join(state.name for state in facts.held) or 'none'}.",
                f"Pending deliveries: {facts.pending}. Open alerts: {facts.alerts_open}.",
            ]
        ),
        "day": day,
        "since": iso(since),
        "until": iso(until),
        "ended": ended,
        "spent": spent,
        "dead": dict(facts.dead),
        "callbacks_missed": missed,
        "held": [
            {"route": state.name, "since": None if state.held_at is None else iso(state.held_at), "why": state.held_why}
            for state in facts.held
        ],
        "pending": facts.pending,
        "alerts": {"open": facts.alerts_open, "acknowledged": facts.alerts_acknowledged},
    }


def _counted(ended: dict[str, int]) -> str:
    return ", ".join(f"{number} {state}" for state, number in ended.items()) or "none"
