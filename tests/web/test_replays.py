"""Holding, retrying and replaying over HTTP, over a real store."""

from typing import Any

import pytest
from harness.factories import a_delivery, a_task, an_event, at
from harness.web_app import House

from receiver.domain.model import DeliveryStatus, RouteState
from receiver.domain.replays import Action

ALICE = {"kling-receiver-actor": "alice"}


async def post(house: House, path: str, body: object = None, *, status: int = 200) -> Any:
    answer = await house.client.post(path, json=body or {}, headers=ALICE)
    assert answer.status_code == status, answer.text
    return answer.json()


async def with_dead(house: House, count: int = 3, *, route: str = "publish") -> list[str]:
    """Keep so many deliveries that died, and give their ids."""
    ids = [house.ids.new("dlv") for _ in range(count)]
    events = [an_event(house.ids.new("evt"), type="task.processing") for _ in ids]
    await house.store.add(a_task(), b"", events=events)
    await house.store.record(
        [],
        [
            a_delivery(id_, event_id=event.id, status=DeliveryStatus.DEAD, finished_at=at(0), attempts=7, route=route)
            for id_, event in zip(ids, events, strict=True)
        ],
    )
    return ids


async def told(house: House) -> list[tuple[str, str, str, str]]:
    actions = await house.store.actions()
    return [(each.actor, each.verb, each.subject, each.note) for each in reversed(actions)]


async def test_a_route_is_held_and_released_and_who_did_it_is_kept(house: House) -> None:
    held = await post(house, "/api/routes/publish/hold", {"why": "they are moving"})
    (listed,) = (await house.client.get("/api/routes")).json()["items"]
    released = await post(house, "/api/routes/publish/release")

    assert (held["held_by"], held["held_why"], held["held_at"]) == (
        "operator",
        "they are moving",
        "2026-11-22T10:00:00.000Z",
    )
    assert listed == held
    assert (released["held_by"], released["held_at"]) == (None, None)
    assert await told(house) == [
        ("alice", "route.held", "publish", "they are moving"),
        ("alice", "route.released", "publish", ""),
    ]


async def test_whoever_does_not_say_who_they_are_is_the_api(house: House) -> None:
    await house.client.post("/api/routes/publish/hold")
    await house.client.post("/api/routes/publish/hold", headers={"kling-receiver-actor": "x" * 100})

    assert [actor for actor, *_ in await told(house)] == ["api", "x" * 64]


async def test_lanes_beside_the_configuration_are_shown_while_events_wait_and_can_be_released(house: House) -> None:
    await house.store.add(a_task(), b"", events=[an_event()])
    lanes = ("reply:client.example", "renamed")
    await house.store.record([], [a_delivery(f"dlv_{lane}", route=lane) for lane in lanes])

    _, gone, reply = (await house.client.get("/api/routes")).json()["items"]
    held = await post(house, "/api/routes/reply:client.example/hold")
    await post(house, "/api/routes/reply:client.example/release")

    assert (gone["name"], gone["kind"], gone["pending"]) == ("renamed", "gone", 1)
    assert (reply["name"], reply["kind"], reply["destination"]) == (lanes[0], "reply", "client.example")
    assert held["held_by"] == "operator"


async def test_a_route_nobody_knows_cannot_be_held(house: House) -> None:
    problem = await post(house, "/api/routes/nobody/hold", status=404)

    assert problem["code"] == "not_found"
    assert await house.store.route_states() == {}
    assert await told(house) == []


async def test_a_dead_delivery_is_tried_anew_as_often_as_is_asked(house: House) -> None:
    [old] = await with_dead(house, 1)

    first = await post(house, f"/api/deliveries/{old}/retry", {"why": "it is mended"}, status=202)
    second = await post(house, f"/api/deliveries/{old}/retry", status=202)

    assert first["id"] != second["id"]
    for again in (first, second):
        assert (again["replay_of"], again["status"], again["attempts"]) == (old, "pending", 0)
    assert (await house.client.get(f"/api/deliveries/{old}")).json()["status"] == "dead"
    assert await told(house) == [
        ("alice", "delivery.retried", old, "it is mended"),
        ("alice", "delivery.retried", old, ""),
    ]


async def test_a_waiting_delivery_is_due_at_once_and_stays_itself(house: House) -> None:
    await house.store.add(a_task(), b"", events=[an_event()])
    await house.store.record([], [a_delivery(due_at=at(900), attempts=3)])

    again = await post(house, "/api/deliveries/dlv_1/retry", status=202)

    assert (again["id"], again["due_at"], again["attempts"]) == ("dlv_1", "2026-11-22T10:00:00.000Z", 3)


async def test_what_cannot_be_retried_is_told(house: House) -> None:
    [gone] = await with_dead(house, 1, route="renamed")
    await house.store.record([], [a_delivery(event_id=(await house.store.events()).items[0].id)])
    await house.store.claim("publish", now=at(0), until=at(60), limit=1, claim="mine")

    missing = await post(house, "/api/deliveries/nothing/retry", status=404)
    tried = await post(house, "/api/deliveries/dlv_1/retry", status=409)
    nowhere = await post(house, f"/api/deliveries/{gone}/retry", status=409)

    assert missing["code"] == "not_found"
    assert "at this moment" in tried["detail"]
    assert "renamed" in nowhere["detail"]
    assert "--to-route" in nowhere["detail"]
    assert await told(house) == []


async def test_a_dry_run_says_what_would_go_out_and_does_nothing(house: House) -> None:
    ids = await with_dead(house, 12)

    outline = await post(house, "/api/replays", {"route": "publish", "status": ["dead"], "dry_run": True})

    assert (outline["dry_run"], outline["total"]) == (True, 12)
    moment = "2026-11-22T10:00:00.000Z"
    assert outline["by"] == [
        {"route": "publish", "status": "dead", "count": 12, "oldest_at": moment, "newest_at": moment}
    ]
    assert [each["replay_of"] for each in outline["sample"]] == ids[:10]
    assert (await house.client.get("/api/replays")).json()["items"] == []
    assert len((await house.store.deliveries(limit=500)).items) == 12
    assert await told(house) == []


async def test_a_replay_is_stored_shown_listed_and_cancelled(house: House) -> None:
    await with_dead(house)
    wish = {
        "route": "publish",
        "status": ["dead", "cancelled"],
        "from": "2026-11-22T11:00:00+01:00",
        "to": "2026-11-23T00:00:00Z",
        "pace": "5/s",
        "why": "the outage",
    }

    answer = await house.client.post("/api/replays", json=wish, headers=ALICE)
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
    assert (await house.client.get(f"/api/replays/{replay['id']}")).json() == replay
    assert (await house.client.get("/api/replays")).json() == {"items": [replay], "next": None}

    cancelled = await post(house, f"/api/replays/{replay['id']}/cancel", {"why": "not yet"})

    assert (cancelled["state"], cancelled["finished_at"]) == ("cancelled", "2026-11-22T10:00:00.000Z")
    again = await post(house, f"/api/replays/{replay['id']}/cancel", status=409)
    assert "cancelled already" in again["detail"]
    assert await told(house) == [
        ("alice", "replay.started", replay["id"], "the outage"),
        ("alice", "replay.cancelled", replay["id"], "not yet"),
    ]


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        ({}, ["everything", "Say what"]),
        ({"to_route": "publish"}, ["everything"]),
        ({"status": ["pending"]}, ["by itself", "deliveries retry"]),
        ({"status": ["lost"]}, ["dead"]),
        ({"status": "dead"}, ["list"]),
        ({"route": "renamed"}, ["renamed", "to_route"]),
        ({"route": "publish", "to_route": "nobody"}, ["nobody"]),
        ({"route": "publish", "from": "yesterday"}, ["'from'", "Z"]),
        ({"route": "publish", "to": "2026-11-22T10:00:00"}, ["'to'", "zone"]),
        ({"from": "2026-11-23T00:00:00Z", "to": "2026-11-22T00:00:00Z"}, ["before"]),
        ({"route": "publish", "pace": "fast"}, ["'pace'", "10/s"]),
        ({"route": "publish", "dry_run": "yes"}, ["'dry_run'"]),
        ({"events": ["a"] * 501}, ["500"]),
        ({"colour": "red"}, ["'colour'", "deliveries"]),
    ],
)
async def test_what_cannot_be_replayed_is_told(house: House, wish: object, words: list[str]) -> None:
    problem = await post(house, "/api/replays", wish or {"why": "x"}, status=400)

    assert problem["code"] == "invalid_request"
    for word in words:
        assert word in problem["detail"]


async def test_a_replay_nobody_asked_for_is_not_found(house: House) -> None:
    for method, path in (("GET", "/api/replays/rpl_1"), ("POST", "/api/replays/rpl_1/cancel")):
        assert (await house.client.request(method, path)).status_code == 404


async def test_a_release_of_what_is_not_held_is_no_action(house: House) -> None:
    await post(house, "/api/routes/publish/release")

    assert await house.store.actions() == list[Action]()
    assert await house.store.route_states() == dict[str, RouteState]()
