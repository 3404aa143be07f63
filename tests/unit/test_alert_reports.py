"""What an alert event says about its tracked alert."""

from typing import Any

import pytest
from harness.clock import START
from harness.factories import an_event

from receiver.domain.api_schema.events import Alert
from receiver.domain.tracked_alerts import AlertReport
from receiver.events.alert_reports import read_report
from receiver.events.payload import envelope

WITH_REMEDY = {"account", "bill_differs", "callbacks_missed", "delivery_dead", "events_rejected", "pack_low"}
WITH_REMEDY |= {"submit_unknown", "task_stuck"}
"""Alerts whose events say what to do."""


def report(name: str, **data: Any) -> AlertReport:
    type_ = f"alert.{name}"
    data = {"event_id": "evt_1", "message": "It happened."} | data
    return read_report(an_event(type=type_, body=b"", envelope=envelope(type_, START, data)))


def names() -> list[str]:
    types = [name for kind in Alert.__args__ for name in kind.__annotations__["type"].__args__]
    return [name.removeprefix("alert.") for name in types]


@pytest.mark.parametrize("name", [name for name in names() if not name.endswith("_recovered")])
def test_every_fault_has_a_remedy(name: str) -> None:
    assert bool(report(name, route="app").remedy) == (name not in WITH_REMEDY)


@pytest.mark.parametrize("name", [name for name in names() if name.endswith("_recovered")])
def test_every_recovery_closes_the_topic_of_a_fault(name: str) -> None:
    faults = {report(other).topic for other in names() if not other.endswith("_recovered")}

    assert report(name).closes
    assert report(name).topic in faults


def test_a_remedy_names_its_subject_and_the_events_own_one_counts() -> None:
    assert "routes test app" in report("route_held", route="app", held_by="failures").remedy
    assert "routes release app" in report("route_held", route="app", held_by="operator").remedy
    assert report("route_held", route="app", remedy="Call Anna.").remedy == "Call Anna."
