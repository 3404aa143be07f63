"""Tests of a route: samples of every type, and what it would do with stored events."""

import json

import pytest
from harness.web_app import WebApp


async def test_a_sample_of_any_type_is_sent(web: WebApp) -> None:
    answer = await web.client.post("/api/routes/publish/test", json={"type": "alert.route_held"})

    assert answer.json()["outcome"] == "accepted"
    sent = json.loads(web.sink.bodies[0])
    assert (sent["type"], sent["data"]["test"]) == ("alert.route_held", True)


@pytest.mark.parametrize("body", [{"type": "queued"}, {"type": ""}, {"type": 5}, {"kind": "failed"}])
async def test_an_unknown_sample_is_refused(web: WebApp, body: object) -> None:
    answer = await web.client.post("/api/routes/publish/test", json=body)

    assert answer.status_code == 400
    assert web.sink.requests == []


async def test_a_backtest_shows_what_a_route_would_do_and_sends_nothing(web: WebApp) -> None:
    for state in ("succeed", "failed"):
        made = await web.client.post("/api/trigger", json={"state": state})
        assert made.status_code == 201, made.text

    found = (await web.client.post("/api/routes/publish/backtest", json={"last": 50})).json()

    types = [(item["type"], item["wanted"]) for item in found["items"]]
    assert types.count(("task.succeed", True)) == 1
    assert types.count(("task.failed", False)) == 1
    assert found["wanted"] == 1
    [wanted] = [item for item in found["items"] if item["wanted"]]
    assert json.loads(wanted["body"])["data"]["event_id"] == wanted["event_id"]
    [refused] = [item for item in found["items"] if item["type"] == "task.failed"]
    assert refused["reason"] == 'on = ["succeed"] does not name "failed"'
    assert web.sink.requests == []


async def test_a_backtest_of_one_event_needs_a_stored_one(web: WebApp) -> None:
    answer = await web.client.post("/api/routes/publish/backtest", json={"event": "evt_none"})

    assert answer.status_code == 404


async def test_a_test_task_is_stored_marked_and_never_polled(web: WebApp) -> None:
    made = (await web.client.post("/api/trigger", json={"state": "succeed", "tags": {"a": "b"}})).json()

    assert (made["state"], made["origin"], made["tags"]) == ("succeed", "test", {"a": "b", "test": "true"})
    events = (await web.client.get(f"/api/events?task={made['id']}")).json()["items"]
    assert [event["type"] for event in events] == ["task.succeed", "task.processing", "task.submitted"]
    deliveries = (await web.client.get(f"/api/deliveries?task={made['id']}")).json()["items"]
    assert [(each["route"], each["status"]) for each in deliveries] == [("publish", "pending")]
    assert web.kling.requests == []
    assert (await web.client.get("/api/costs")).json()["items"] == []


async def test_a_test_task_that_stays_running_is_stored_as_ended(web: WebApp) -> None:
    made = (await web.client.post("/api/trigger", json={"state": "processing"})).json()

    assert made["state"] == "expired"
    events = (await web.client.get(f"/api/events?task={made['id']}")).json()["items"]
    assert [event["type"] for event in events] == ["task.processing", "task.submitted"]


@pytest.mark.parametrize("state", ["queued", "awaiting", "submitting", "done", ""])
async def test_a_test_task_reaches_only_states_with_an_event(web: WebApp, state: str) -> None:
    answer = await web.client.post("/api/trigger", json={"state": state})

    assert answer.status_code == 400
