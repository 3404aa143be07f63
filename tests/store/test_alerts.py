"""Tracked alerts in a store: opened, counted and closed by the alert events, quiet while acknowledged."""

from datetime import datetime
from typing import Any, cast

import pytest
from harness.factories import a_delivery, a_task, an_event, at
from store.conftest import Opener, Store, decide_always

from receiver.domain.audit import AuditEntry
from receiver.domain.model import DeliveryStatus, RouteDecision, TaskState
from receiver.domain.tracked_alerts import Acknowledgement, AlertState, ClosedBy, TrackedAlert
from receiver.events.payload import envelope
from receiver.store.interfaces import AlertStore, ById, Change, RetentionTarget

ON_CALL = RouteDecision(route="on-call", wanted=True, reason="all conditions hold")
OTHERS = RouteDecision(route="others", wanted=False, reason="on does not name 'alert'")


@pytest.fixture
def alerts(store: Store) -> AlertStore:
    return cast("AlertStore", cast("Any", store).alerts)


async def report(store: Store, number: int, name: str, *, task_id: str | None = None, **data: object) -> str:
    """Store an alert event with one delivery, *number* seconds after the start; return the event's id."""
    event_id, type_ = f"evt_{number:025}", f"alert.{name}"
    event = an_event(
        event_id,
        type=type_,
        body=b"",
        task_id=task_id,
        created_at=at(number),
        envelope=envelope(type_, at(number), {"event_id": event_id, "message": f"Message {number}."} | data),
        decisions=(ON_CALL, OTHERS),
    )
    delivery = a_delivery(f"dlv_{number:025}", event_id=event_id, route="on-call", created_at=at(number))
    await store.tasks.add_events([event], [delivery])
    return event_id


async def held(store: Store, number: int, *, reason: str = "HTTP 500", route: str = "app") -> str:
    return await report(store, number, "route_held", route=route, reason=reason)


async def only(alerts: AlertStore) -> TrackedAlert:
    (found,) = (await alerts.list()).items
    return found


async def acknowledge(alerts: AlertStore, alert: TrackedAlert, *, seconds: float = 50) -> bool:
    action = AuditEntry(at=at(seconds), actor="anna", verb="alert.acknowledged", subject=alert.id, reason="on it")
    return await alerts.acknowledge(
        alert.id, Acknowledgement(at=at(seconds), actor="anna", note="on it"), action=action
    )


async def has_delivery(store: Store, event_id: str) -> bool:
    return bool((await store.catalog.deliveries(event_id=event_id)).items)


async def test_the_first_report_opens_an_alert_and_the_next_ones_count(store: Store, alerts: AlertStore) -> None:
    await held(store, 1)
    last = await held(store, 2, reason="connection refused")

    alert = await only(alerts)

    assert (alert.type, alert.subject, alert.state) == ("alert.route_held", "app", AlertState.OPEN)
    assert (alert.opened_at, alert.last_seen_at, alert.times) == (at(1), at(2), 2)
    assert (alert.message, alert.cause, alert.event_id) == ("Message 2.", "connection refused", last)


async def test_alerts_about_different_subjects_are_different_alerts(store: Store, alerts: AlertStore) -> None:
    await held(store, 1, route="app")
    await held(store, 2, route="mail")
    await report(store, 3, "account", kling_code=1102, concerns={"reach": "pack", "name": "video"})
    await report(store, 4, "account", kling_code=1101, concerns={"reach": "account", "name": ""})

    assert [alert.subject for alert in (await alerts.list()).items] == ["account", "pack video", "mail", "app"]


async def test_a_recovery_closes_its_alert_alone(store: Store, alerts: AlertStore) -> None:
    await held(store, 1, route="app")
    await held(store, 2, route="mail")
    await report(store, 3, "route_recovered", route="app", reason="HTTP 500")

    mail, app = (await alerts.list()).items

    assert mail.state is AlertState.OPEN
    assert (app.state, app.closed_at, app.closed_by) == (AlertState.CLOSED, at(3), ClosedBy.RECOVERY)


async def test_a_fault_that_returns_after_its_recovery_is_a_new_alert(store: Store, alerts: AlertStore) -> None:
    await held(store, 1)
    assert await acknowledge(alerts, await only(alerts))
    await report(store, 2, "route_recovered", route="app", reason="")
    again = await held(store, 3)

    newest, first = (await alerts.list()).items

    assert (newest.state, newest.times, first.state) == (AlertState.OPEN, 1, AlertState.CLOSED)
    assert await has_delivery(store, again)


async def test_an_acknowledged_alert_stays_quiet_while_its_cause_is_the_same(store: Store, alerts: AlertStore) -> None:
    await report(store, 1, "delivery_dead", route="app", reason="HTTP 500")
    assert await acknowledge(alerts, await only(alerts))
    quiet = await report(store, 2, "delivery_dead", route="app", reason="HTTP 500")

    alert = await only(alerts)
    event = await store.catalog.event(quiet)

    assert (alert.state, alert.times) == (AlertState.ACKNOWLEDGED, 2)
    assert alert.acknowledged == Acknowledgement(at=at(50), actor="anna", note="on it")
    assert not await has_delivery(store, quiet)
    assert event is not None
    assert [(each.wanted, each.reason) for each in event.decisions] == [
        (False, "the alert is acknowledged by anna and has not changed"),
        (False, OTHERS.reason),
    ]


async def test_another_cause_ends_the_acknowledgement(store: Store, alerts: AlertStore) -> None:
    await report(store, 1, "delivery_dead", route="app", reason="HTTP 500")
    await acknowledge(alerts, await only(alerts))
    loud = await report(store, 2, "delivery_dead", route="app", reason="connection refused")

    assert (await only(alerts)).state is AlertState.OPEN
    assert await has_delivery(store, loud)


async def test_a_worse_alert_ends_the_acknowledgement(store: Store, alerts: AlertStore) -> None:
    results = [{"number": 0, "url": "u", "reason": "HTTP 500", "still_tried": True}]
    await report(store, 1, "asset_lost", event="evt_x", results=results)
    await acknowledge(alerts, await only(alerts))
    loud = await report(store, 2, "asset_expiring", event="evt_x", results=results)

    assert (await only(alerts)).state is AlertState.OPEN
    assert await has_delivery(store, loud)


async def test_a_recovery_of_an_acknowledged_alert_is_delivered(store: Store, alerts: AlertStore) -> None:
    await held(store, 1)
    await acknowledge(alerts, await only(alerts))
    recovered = await report(store, 2, "route_recovered", route="app", reason="")

    assert await has_delivery(store, recovered)


async def test_an_acknowledgement_is_audited_once(store: Store, alerts: AlertStore) -> None:
    await held(store, 1)
    alert = await only(alerts)

    assert await acknowledge(alerts, alert)
    assert not await acknowledge(alerts, alert, seconds=60)

    (action,) = await store.catalog.actions(subjects=[alert.id])
    assert (action.actor, action.verb, action.reason) == ("anna", "alert.acknowledged", "on it")


async def test_an_acknowledgement_closes_what_cannot_recover(store: Store, alerts: AlertStore) -> None:
    await store.tasks.add(a_task(), b"{}")
    await report(store, 1, "task_contradicted", task_id="tsk_1", task={"id": "tsk_1"})

    await acknowledge(alerts, await only(alerts))

    alert = await only(alerts)
    assert (alert.state, alert.closed_by) == (AlertState.CLOSED, ClosedBy.ACKNOWLEDGEMENT)


async def ended(alerts: AlertStore, now: datetime) -> list[str]:
    closed = await alerts.close_ended(now=now)
    return [alert.topic for alert in (await alerts.list()).items if alert.id in closed]


async def test_an_alert_about_a_task_closes_with_the_task(store: Store, alerts: AlertStore) -> None:
    await store.tasks.add(a_task(), b"{}")
    await report(store, 1, "task_stuck", task_id="tsk_1", task={"id": "tsk_1"}, reason="")
    before = await ended(alerts, at(2))

    over = Change(task=a_task(state=TaskState.SUCCEED, due_at=None))
    await store.tasks.apply(ById(id="tsk_1"), decide_always(over))

    assert (before, await ended(alerts, at(3))) == ([], ["task_stuck"])


async def test_an_alert_about_dead_deliveries_closes_once_each_was_delivered_again(
    store: Store, alerts: AlertStore
) -> None:
    await store.tasks.add(a_task(), b"{}")
    dead = a_delivery("dlv_1", route="app", status=DeliveryStatus.DEAD, finished_at=at(1))
    await store.tasks.add_events([an_event()], [dead])
    await report(store, 2, "delivery_dead", route="app", reason="HTTP 500")
    before = await ended(alerts, at(3))

    again = a_delivery("dlv_2", route="app", replay_of="dlv_1")
    await store.tasks.add_events([], [again])

    assert (before, await ended(alerts, at(4))) == ([], ["delivery_dead"])


async def test_an_alert_about_rejected_events_closes_with_the_next_success(store: Store, alerts: AlertStore) -> None:
    await store.tasks.add(a_task(), b"{}")
    done = {"route": "app", "status": DeliveryStatus.DELIVERED}
    await store.tasks.add_events([an_event()], [a_delivery("dlv_1", **done, finished_at=at(1))])
    await report(store, 2, "events_rejected", route="app", reason="HTTP 400")
    before = await ended(alerts, at(3))

    await store.tasks.add_events([], [a_delivery("dlv_2", **done, replay_of="dlv_1", finished_at=at(4))])

    assert (before, await ended(alerts, at(5))) == ([], ["events_rejected"])


async def test_lists_are_paged_and_filtered(store: Store, alerts: AlertStore) -> None:
    await held(store, 1, route="a")
    await held(store, 2, route="b")
    await report(store, 3, "disk_full", folder="/var/lib")
    await report(store, 4, "route_recovered", route="a", reason="")

    first = await alerts.list(limit=2)
    rest = await alerts.list(limit=2, cursor=first.next)

    assert [alert.subject for alert in (*first.items, *rest.items)] == ["/var/lib", "b", "a"]
    assert rest.next is None
    assert [alert.subject for alert in (await alerts.list(states=[AlertState.CLOSED])).items] == ["a"]
    assert [alert.subject for alert in (await alerts.list(types=["alert.disk_full"])).items] == ["/var/lib"]
    assert [alert.subject for alert in (await alerts.list(subject="b")).items] == ["b"]


async def test_retention_deletes_closed_alerts_and_no_open_one(store: Store, alerts: AlertStore) -> None:
    await held(store, 1, route="a")
    await held(store, 2, route="b")
    await report(store, 3, "route_recovered", route="a", reason="")

    await store.retention.sweep(RetentionTarget.ALERTS, before=at(1000), now=at(1000))

    assert [alert.subject for alert in (await alerts.list()).items] == ["b"]


async def test_alerts_survive_a_restart(opener: Opener) -> None:
    async with opener() as store:
        await held(store, 1)
    async with opener() as store:
        await held(store, 2)

        assert (await only(cast("Any", store).alerts)).times == 2
