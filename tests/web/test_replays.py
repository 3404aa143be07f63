"""Holding, retrying and replaying over HTTP, over a real store."""

from typing import Any

import pytest
from harness.factories import a_delivery, a_task, an_event, at
from harness.web_app import WebApp

from receiver.domain.audit import AuditEntry
from receiver.domain.model import DeliveryStatus, RouteState

ALICE = {"kling-receiver-actor": "alice"}


async def post(web: WebApp, path: str, body: object = None, *, status: int = 200) -> Any:
    answer = await web.client.post(path, json=body or {}, headers=ALICE)
    assert answer.status_code == status, answer.text
    return answer.json()


async def add_dead_deliveries(web: WebApp, count: int = 3, *, route: str = "publish") -> list[str]:
    """Store dead deliveries, and return their ids."""
    ids = [web.ids.new("dlv") for _ in range(count)]
    events = [an_event(web.ids.new("evt"), type="task.processing") for _ in ids]
    await web.store.tasks.add(a_task(), b"", events=events)
    await web.store.tasks.add_events(
        [],
        [
            a_delivery(id_, event_id=event.id, status=DeliveryStatus.DEAD, finished_at=at(0), attempts=7, route=route)
            for id_, event in zip(ids, events, strict=True)
        ],
    )
    return ids


async def recorded_actions(web: WebApp) -> list[tuple[str, str, str, str]]:
    actions = await web.store.catalog.actions()
    return [(each.actor, each.verb, each.subject, each.reason) for each in reversed(actions)]


async def test_a_hold_and_a_release_record_the_actor(web: WebApp) -> None:
    held = await post(web, "/api/routes/publish/hold", {"why": "they are moving"})
    (listed,) = (await web.client.get("/api/routes")).json()["items"]
    released = await post(web, "/api/routes/publish/release")

    assert (held["held_by"], held["held_why"], held["held_at"]) == (
        "operator",
        "they are moving",
        "2026-11-22T10:00:00.000Z",
    )
    assert listed == held
    assert (released["held_by"], released["held_at"]) == (None, None)
    assert await recorded_actions(web) == [
        ("alice", "route.held", "publish", "they are moving"),
        ("alice", "route.released", "publish", ""),
    ]


async def test_the_default_actor_is_the_api(web: WebApp) -> None:
    await web.client.post("/api/routes/publish/hold")
    await web.client.post("/api/routes/publish/hold", headers={"kling-receiver-actor": "x" * 100})

    assert [actor for actor, *_ in await recorded_actions(web)] == ["api", "x" * 64]


async def test_unconfigured_lanes_are_shown_while_events_wait_and_releasable(web: WebApp) -> None:
    await web.store.tasks.add(a_task(), b"", events=[an_event()])
    lanes = ("reply:client.example", "renamed")
    await web.store.tasks.add_events([], [a_delivery(f"dlv_{lane}", route=lane) for lane in lanes])

    _, gone, reply = (await web.client.get("/api/routes")).json()["items"]
    held = await post(web, "/api/routes/reply:client.example/hold")
    await post(web, "/api/routes/reply:client.example/release")

    assert (gone["name"], gone["kind"], gone["pending"]) == ("renamed", "gone", 1)
    assert (reply["name"], reply["kind"], reply["destination"]) == (lanes[0], "reply", "client.example")
    assert held["held_by"] == "operator"


async def test_an_unknown_route_cannot_be_held(web: WebApp) -> None:
    problem = await post(web, "/api/routes/nobody/hold", status=404)

    assert problem["code"] == "not_found"
    assert await web.store.deliveries.route_states() == {}
    assert await recorded_actions(web) == []


async def test_each_retry_of_a_dead_delivery_makes_a_new_delivery(web: WebApp) -> None:
    [old] = await add_dead_deliveries(web, 1)

    first = await post(web, f"/api/deliveries/{old}/retry", {"why": "it is mended"}, status=202)
    second = await post(web, f"/api/deliveries/{old}/retry", status=202)

    assert first["id"] != second["id"]
    for again in (first, second):
        assert (again["replay_of"], again["status"], again["attempts"]) == (old, "pending", 0)
    assert (await web.client.get(f"/api/deliveries/{old}")).json()["status"] == "dead"
    assert await recorded_actions(web) == [
        ("alice", "delivery.retried", old, "it is mended"),
        ("alice", "delivery.retried", old, ""),
    ]


async def test_a_retry_makes_a_waiting_delivery_due_at_once(web: WebApp) -> None:
    await web.store.tasks.add(a_task(), b"", events=[an_event()])
    await web.store.tasks.add_events([], [a_delivery(due_at=at(900), attempts=3)])

    again = await post(web, "/api/deliveries/dlv_1/retry", status=202)

    assert (again["id"], again["due_at"], again["attempts"]) == ("dlv_1", "2026-11-22T10:00:00.000Z", 3)


async def test_a_refused_retry_is_explained(web: WebApp) -> None:
    [gone] = await add_dead_deliveries(web, 1, route="renamed")
    await web.store.tasks.add_events([], [a_delivery(event_id=(await web.store.catalog.events()).items[0].id)])
    await web.store.deliveries.claim("publish", now=at(0), until=at(60), limit=1, claim="mine")

    missing = await post(web, "/api/deliveries/nothing/retry", status=404)
    tried = await post(web, "/api/deliveries/dlv_1/retry", status=409)
    nowhere = await post(web, f"/api/deliveries/{gone}/retry", status=409)

    assert missing["code"] == "not_found"
    assert "in progress" in tried["detail"]
    assert "renamed" in nowhere["detail"]
    assert "--to-route" in nowhere["detail"]
    assert await recorded_actions(web) == []


async def test_a_dry_run_shows_the_deliveries_and_makes_none(web: WebApp) -> None:
    ids = await add_dead_deliveries(web, 12)

    outline = await post(web, "/api/replays", {"route": "publish", "status": ["dead"], "dry_run": True})

    assert (outline["dry_run"], outline["total"]) == (True, 12)
    moment = "2026-11-22T10:00:00.000Z"
    assert outline["by"] == [
        {"route": "publish", "status": "dead", "count": 12, "oldest_at": moment, "newest_at": moment}
    ]
    assert [each["replay_of"] for each in outline["sample"]] == ids[:10]
    assert (await web.client.get("/api/replays")).json()["items"] == []
    assert len((await web.store.catalog.deliveries(limit=500)).items) == 12
    assert await recorded_actions(web) == []


async def test_a_replay_is_stored_shown_listed_and_cancelled(web: WebApp) -> None:
    await add_dead_deliveries(web)
    wish = {
        "route": "publish",
        "status": ["dead", "cancelled"],
        "from": "2026-11-22T11:00:00+01:00",
        "to": "2026-11-23T00:00:00Z",
        "pace": "5/s",
        "why": "the outage",
    }

    answer = await web.client.post("/api/replays", json=wish, headers=ALICE)
    replay = answer.json()

    assert answer.status_code == 202
    assert answer.headers["location"] == f"/api/replays/{replay['id']}"
    assert (replay["state"], replay["total"], replay["created"]) == ("running", 3, 0)
    assert (replay["pace"], replay["why"], replay["actor"]) == ("5/s", "the outage", "alice")
    assert replay["selection"] == {
        "deliveries": [],
        "events": [],
        "task": None,
        "route": "publish",
        "status": ["dead", "cancelled"],
        "from": "2026-11-22T10:00:00.000Z",
        "to": "2026-11-23T00:00:00.000Z",
        "to_route": None,
    }
    assert (await web.client.get(f"/api/replays/{replay['id']}")).json() == replay
    assert (await web.client.get("/api/replays")).json() == {"items": [replay], "next": None}

    cancelled = await post(web, f"/api/replays/{replay['id']}/cancel", {"why": "not yet"})

    assert (cancelled["state"], cancelled["finished_at"]) == ("cancelled", "2026-11-22T10:00:00.000Z")
    again = await post(web, f"/api/replays/{replay['id']}/cancel", status=409)
    assert "already cancelled" in again["detail"]
    assert await recorded_actions(web) == [
        ("alice", "replay.started", replay["id"], "the outage"),
        ("alice", "replay.cancelled", replay["id"], "not yet"),
    ]


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        ({}, ["everything", "Select by"]),
        ({"to_route": "publish"}, ["everything"]),
        ({"status": ["pending"]}, ["automatically", "deliveries retry"]),
        ({"status": ["lost"]}, ["dead"]),
        ({"status": "dead"}, ["list"]),
        ({"route": "publish", "from": "yesterday"}, ["'from'", "Z"]),
        ({"route": "publish", "to": "2026-11-22T10:00:00"}, ["'to'", "UTC offset"]),
        ({"from": "2026-11-23T00:00:00Z", "to": "2026-11-22T00:00:00Z"}, ["before"]),
        ({"route": "publish", "pace": "fast"}, ["'pace'", "10/s"]),
        ({"route": "publish", "dry_run": "yes"}, ["'dry_run'"]),
        ({"events": ["a"] * 501}, ["500"]),
        ({"colour": "red"}, ["'colour'", "deliveries"]),
    ],
)
async def test_a_refused_replay_is_explained(web: WebApp, wish: object, words: list[str]) -> None:
    problem = await post(web, "/api/replays", wish or {"why": "x"}, status=400)

    assert problem["code"] == "invalid_request"
    for word in words:
        assert word in problem["detail"]


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"route": "renamed"}, ["renamed", "to_route"]),
        ({"route": "publish", "to_route": "nobody"}, ["nobody", "routes list"]),
    ],
)
async def test_an_unknown_route_has_an_error_code_of_its_own(web: WebApp, request_: object, words: list[str]) -> None:
    problem = await post(web, "/api/replays", request_, status=400)

    assert problem["code"] == "unknown_route"
    for word in words:
        assert word in problem["detail"]


async def test_an_unknown_replay_is_not_found(web: WebApp) -> None:
    for method, path in (("GET", "/api/replays/rpl_1"), ("POST", "/api/replays/rpl_1/cancel")):
        assert (await web.client.request(method, path)).status_code == 404


async def test_releasing_a_route_that_is_not_held_records_no_action(web: WebApp) -> None:
    await post(web, "/api/routes/publish/release")

    assert await web.store.catalog.actions() == list[AuditEntry]()
    assert await web.store.deliveries.route_states() == dict[str, RouteState]()
