"""The API of the admin listener, over a real store."""

import json
from datetime import timedelta
from typing import Any, cast

import httpx2 as httpx
import pytest
from harness.clock import START
from harness.http_client import plain_http
from harness.logs import capture_logs
from harness.web_app import WebApp

from receiver.domain import signing
from receiver.domain.model import Attempt, Delivery, DeliveryStatus, Event, Verdict, Verification
from receiver.domain.secret import Secret
from receiver.events.payload import serialize

ENDPOINT = "images/multi-image2image"
JOB = {"endpoint": ENDPOINT, "body": {"prompt": "a cat"}}
SUCCEED = {"task_status": "succeed", "task_result": {"images": [{"index": 0, "url": "https://cdn.example/0.png"}]}}


async def create(web: WebApp, **members: object) -> Any:
    answer = await web.client.post("/api/tasks", json=JOB | members)
    assert answer.status_code == 202, answer.text
    return answer.json()


async def post_callback(web: WebApp, url: str, body: object) -> httpx.Response:
    """Post to a callback URL as Kling would, at the address where this test listens."""
    path = "/callbacks/" + url.rpartition("/")[2]
    async with plain_http(base_url=f"http://{web.public}") as client:
        return await client.post(path, json=body)


def callback_url(web: WebApp, number: int = -1) -> str:
    url: str = json.loads(web.kling.bodies[number])["callback_url"]
    return url


async def test_a_job_is_accepted_sent_and_shown(web: WebApp) -> None:
    task = await create(web, label="spring", tags={"project": "ads"})

    assert task["id"].startswith("tsk_")
    assert (task["state"], task["endpoint"], task["label"]) == ("submitted", ENDPOINT, "spring")
    assert (task["tags"], task["kling_id"], task["origin"]) == ({"project": "ads"}, "8672", "api")
    assert json.loads(web.kling.bodies[0])["prompt"] == "a cat"
    assert not task.pop("existing")
    for ref in (task["id"], "8672", task["external_task_id"]):
        found = (await web.client.get(f"/api/tasks/{ref}")).json()
        assert found == {**task, "verified": None, "result": {}, "assets": [], "archiving": None, "cost": None}


async def test_the_same_idempotency_key_is_the_same_task(web: WebApp) -> None:
    first = await create(web, idempotency_key="k1")
    second = await create(web, idempotency_key="k1")

    assert first["id"] == second["id"]
    assert len(web.kling.requests) == 1


async def test_a_finished_task_shows_its_result(web: WebApp) -> None:
    minted = (await web.client.post("/api/callback-urls", json={"label": "by hand", "tags": {"a": "b"}})).json()
    assert minted["task"]["state"] == "awaiting"

    taken = await post_callback(web, minted["callback_url"], {"task_id": "99", **SUCCEED})
    task = (await web.client.get("/api/tasks/99")).json()

    assert taken.json() == {"ok": True}
    assert (task["id"], task["state"], task["label"]) == (minted["task"]["id"], "succeed", "by hand")
    assert task["tags"] == {"a": "b"}
    assert task["verified"] == "none"
    assert task["result"] == {"images": [{"index": 0, "url": "https://cdn.example/0.png"}]}


async def test_a_revoked_callback_url_is_answered_like_an_unknown_one(web: WebApp) -> None:
    minted = (await web.client.post("/api/callback-urls", json={})).json()
    made_up = minted["callback_url"].rpartition("/")[0] + "/never-was"

    revoked = await web.client.post(f"/api/callback-urls/{minted['task']['id']}/revoke")
    refused = await post_callback(web, minted["callback_url"], {"task_id": "99", **SUCCEED})
    unknown = await post_callback(web, made_up, {"task_id": "99", **SUCCEED})
    without_task = await web.client.post("/api/callback-urls/tsk_none/revoke")

    assert (revoked.status_code, revoked.json()["state"]) == (200, "awaiting")
    assert (refused.status_code, refused.content) == (unknown.status_code, unknown.content) == (404, unknown.content)
    assert without_task.status_code == 404


async def test_a_callback_url_is_created_for_a_known_endpoint(web: WebApp) -> None:
    minted = await web.client.post("/api/callback-urls", json={"endpoint": ENDPOINT})
    refused = await web.client.post("/api/callback-urls", json={"endpoint": "no/such/thing"})

    assert minted.status_code == 201
    assert minted.json()["callback_url"].startswith("https://hooks.example.com/callbacks/")
    assert minted.json()["task"]["endpoint"] == ENDPOINT
    assert refused.status_code == 400


async def test_lists_are_paged_and_filtered(web: WebApp) -> None:
    made = [await create(web, label=f"l{n % 2}", tags={"n": str(n)}) for n in range(5)]

    async def ids(**query: str | list[str]) -> list[str]:
        answer = (await web.client.get("/api/tasks", params=query)).json()
        return [task["id"] for task in answer["items"]]

    newest_first = [task["id"] for task in reversed(made)]
    first = (await web.client.get("/api/tasks", params={"limit": 2})).json()
    second = (await web.client.get("/api/tasks", params={"limit": 3, "cursor": first["next"]})).json()
    assert [task["id"] for task in first["items"] + second["items"]] == newest_first
    assert second["next"] is None
    assert await ids(label="l1") == [newest_first[1], newest_first[3]]
    assert await ids(tag="n:3") == [newest_first[1]]
    assert await ids(tag=["n:3", "m:3"]) == []
    assert await ids(state="submitted,queued", endpoint=ENDPOINT) == newest_first
    assert await ids(state=["failed", "expired"]) == []


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/api/tasks?colour=red", ["'colour'", "state"]),
        ("/api/tasks?limit=0", ["1 to 500"]),
        ("/api/tasks?limit=501", ["1 to 500"]),
        ("/api/tasks?limit=ten", ["1 to 500"]),
        ("/api/tasks?limit=%D9%A1", ["1 to 500"]),
        ("/api/tasks?state=done", ["'state'", "succeed"]),
        ("/api/tasks?tag=noc", ["key:value"]),
        ("/api/tasks?tag=n:1&tag=n:2", ["'tag'", "once"]),
        ("/api/tasks?label=a&label=b", ["'label'", "once"]),
        ("/api/tasks?cursor=nonsense", ["cursor"]),
        ("/api/tasks/x?colour=red", ["'colour'"]),
        ("/api/events?after=evt_1", ["'after'"]),
        ("/api/deliveries?status=lost", ["pending"]),
        ("/api/routes?limit=1", ["'limit'"]),
        ("/api/stream?after=nothing", ["'after'"]),
    ],
)
async def test_an_invalid_query_parameter_is_explained(web: WebApp, path: str, words: list[str]) -> None:
    answer = await web.client.get(path)

    assert answer.status_code == 400
    assert answer.json()["code"] == "invalid_request"
    for word in words:
        assert word in answer.json()["detail"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ["'endpoint'", "missing"]),
        (b"[]", ["object"]),
        (b"{", ["JSON"]),
        (b'{"endpoint": "images/generations"}', ["'body'"]),
        (b'{"endpoint": 7, "body": {}}', ["'endpoint'"]),
        (b'{"endpoint": "no/such/thing", "body": {}}', ["no/such"]),
        (b'{"endpoint": "images/generations", "body": [], "label": "x"}', ["'body'"]),
        (b'{"endpoint": "images/generations", "body": {}, "colour": 1}', ["'colour'", "idempotency_key"]),
        (b'{"endpoint": "images/generations", "body": {}, "tags": {"a:b": "c"}}', ["colon"]),
        (b'{"endpoint": "images/generations", "body": {}, "tags": {"a": 1}}', ["tags.a"]),
        (b'{"endpoint": "images/generations", "body": {}, "label": "\\ud800"}', ["'label'"]),
        (b'{"endpoint": "images/generations", "body": {}, "label": "a\\u0000"}', ["'label'"]),
        (b'{"endpoint": "images/generations", "body": {"n": NaN}}', ["finite"]),
        (b'{"endpoint": "images/generations", "body": {"callback_url": 5}}', ["callback_url"]),
    ],
)
async def test_an_invalid_job_is_explained(web: WebApp, content: bytes, words: list[str]) -> None:
    answer = await web.client.post("/api/tasks", content=content)

    assert answer.status_code == 400, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    for word in words:
        assert word in answer.json()["detail"]
    assert not web.kling.requests


@pytest.mark.parametrize("escape", ["\\ud800", "\\u0000", "\\ud83d\\ude00"])
async def test_a_job_with_any_escaped_text_is_accepted_and_listed(web: WebApp, escape: str) -> None:
    content = '{"endpoint": "images/generations", "body": {"prompt": "ESCAPE"}}'.replace("ESCAPE", escape)

    answer = await web.client.post("/api/tasks", content=content.encode())

    assert answer.status_code == 202
    assert (await web.client.get("/api/tasks")).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("DELETE", "/api/tasks", 405, {"GET", "HEAD", "POST"}),
        ("PUT", "/api/events/evt_1", 405, {"GET", "HEAD"}),
        ("GET", "/api/callback-urls", 405, {"POST"}),
        ("GET", "/api/tasks/nobody", 404, None),
        ("GET", "/api/events/evt_1", 404, None),
        ("GET", "/api/deliveries/dlv_1", 404, None),
        ("POST", "/api/routes/nobody/test", 404, None),
        ("GET", "/api/tasks/", 404, None),
        ("GET", "/api/nothing", 404, None),
    ],
)
async def test_unknown_paths_and_methods_get_problem_documents(
    web: WebApp, method: str, path: str, status: int, allow: set[str] | None
) -> None:
    answer = await web.client.request(method, path)

    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    if allow is not None:
        assert {each.strip() for each in answer.headers["allow"].split(",")} == allow


async def test_only_a_job_may_have_a_large_body(web: WebApp) -> None:
    picture = {"endpoint": ENDPOINT, "body": {"image": "A" * 3_000_000}}

    taken = await web.client.post("/api/tasks", json=picture)
    refused = await web.client.post("/api/callback-urls", json={"label": "A" * 3_000_000})

    assert taken.status_code == 202
    assert refused.status_code == 413
    assert refused.json()["code"] == "too_large"


async def test_an_internal_error_is_answered_without_details(web: WebApp) -> None:
    web.checks.append(cast("Any", None))

    with capture_logs() as lines:
        answer = await web.client.get("/readyz")

    assert answer.status_code == 500
    assert answer.json()["code"] == "internal"
    assert "request.failed" in [line["event"] for line in lines]
    assert "the-admin-token" not in repr(lines)


async def test_events_are_shown_in_the_bytes_that_destinations_get(web: WebApp) -> None:
    await create(web)
    await post_callback(web, callback_url(web), {"task_id": "8672", "task_status": "processing"})

    listed = (await web.client.get("/api/events", params={"type": "task.processing"})).json()
    event_id = listed["items"][0]["data"]["event_id"]
    shown = await web.client.get(f"/api/events/{event_id}")
    kept = await web.store.catalog.event(event_id)

    assert kept is not None
    assert shown.content == serialize(kept)
    assert listed["items"] == [shown.json()]
    assert shown.json()["data"]["kling"] == {"task_id": "8672", "task_status": "processing"}
    of_task = await web.client.get("/api/events", params={"task": "8672", "after": event_id})
    assert of_task.json() == {"items": [], "next": None}


async def test_deliveries_are_shown_with_their_attempts(web: WebApp) -> None:
    task = await create(web)
    event = Event(
        id=web.ids.new("evt"),
        type="task.succeed",
        envelope=b'{"type":"task.succeed","data":{"result":{}}}',
        body=b"{}",
        verified=Verification.API,
        created_at=START,
        task_id=task["id"],
    )
    delivery = Delivery(
        id=web.ids.new("dlv"),
        event_id=event.id,
        route="publish",
        status=DeliveryStatus.PENDING,
        created_at=START,
        due_at=START,
    )
    await web.store.tasks.add_events([event], [delivery])
    shown = {
        "id": delivery.id,
        "event_id": event.id,
        "event_type": "task.succeed",
        "task_id": task["id"],
        "route": "publish",
        "status": "pending",
        "attempts": 0,
        "due_at": "2026-11-22T10:00:00.000Z",
        "created_at": "2026-11-22T10:00:00.000Z",
        "finished_at": None,
        "replay_of": None,
        "in_flight": False,
    }

    async def list_deliveries() -> Any:
        return (await web.client.get("/api/deliveries", params={"task": "8672", "status": "pending,dead"})).json()

    assert await list_deliveries() == {"items": [shown], "next": None}
    (waiting,) = (await web.client.get("/api/routes")).json()["items"]
    assert (waiting["pending"], waiting["oldest_pending_at"]) == (1, "2026-11-22T10:00:00.000Z")

    await web.store.deliveries.claim("publish", now=START, until=START + timedelta(minutes=1), limit=1, claim="c1")

    assert (await list_deliveries())["items"][0]["in_flight"]

    attempt = Attempt(
        delivery_id=delivery.id,
        number=1,
        started_at=START,
        duration=timedelta(milliseconds=12.5),
        outcome="accepted",
        code=200,
        excerpt=b"thanks \xff",
    )
    await web.store.deliveries.record_attempt(
        attempt, Verdict(status=DeliveryStatus.DELIVERED, due_at=START, finished_at=START), claim="c1"
    )

    found = (await web.client.get(f"/api/deliveries/{delivery.id}")).json()
    assert (found["status"], found["attempts"], found["in_flight"]) == ("delivered", 1, False)
    assert found["finished_at"] == "2026-11-22T10:00:00.000Z"
    assert found["attempts_made"] == [
        {
            "number": 1,
            "started_at": "2026-11-22T10:00:00.000Z",
            "duration_ms": 12.5,
            "outcome": "accepted",
            "code": 200,
            "reason": "",
            "excerpt": "thanks \ufffd",
        }
    ]


async def test_routes_show_their_state_and_no_secrets(web: WebApp) -> None:
    answer = await web.client.get("/api/routes")

    assert "hidden" not in answer.text
    (route,) = answer.json()["items"]
    destination = route.pop("destination")
    assert destination.startswith("http://127.0.0.1:")
    assert destination.count("/") == 2
    assert route == {
        "name": "publish",
        "kind": "webhook",
        "on": ["succeed"],
        "endpoints": ["images/*"],
        "where": None,
        "concurrency": 8,
        "held_at": None,
        "held_by": None,
        "held_why": "",
        "probe_at": None,
        "failures": 0,
        "pending": 0,
        "oldest_pending_at": None,
    }


async def test_a_route_test_sends_a_signed_success(web: WebApp) -> None:
    answer = await web.client.post("/api/routes/publish/test")

    assert answer.json().keys() == {"outcome", "code", "reason", "excerpt", "duration_ms"}
    assert (answer.json()["outcome"], answer.json()["code"]) == ("accepted", 200)
    (request,) = web.sink.requests
    secret = Secret("whsec_dGVzdHNlY3JldHRlc3RzZWNyZXR0ZXN0c2VjcmV0MTI=")
    signature = signing.verify([secret], dict(request.headers), web.sink.bodies[0], now=web.clock.now())
    assert signature is signing.SignatureStatus.GOOD
    event = json.loads(web.sink.bodies[0])
    assert event["type"] == "task.succeed"
    assert event["data"]["task"]["tags"] == {"test": "true"}
    assert event["data"]["result"]["images"][0]["url"]
    assert event["data"]["kling"]["task_status"] == "succeed"
    assert (await web.client.get("/api/events")).json()["items"] == []


async def test_known_endpoints_are_listed(web: WebApp) -> None:
    answer = await web.client.get("/api/endpoints")

    assert answer.status_code == 200
    assert {item["path"] for item in answer.json()["items"]} >= {"images/generations", "text-to-video/{model}"}
    assert answer.json()["next"] is None
    assert (await web.client.get("/api/endpoints?limit=5")).status_code == 400


async def test_tasks_are_counted_by_state(web: WebApp) -> None:
    await create(web, tags={"project": "ads"}, priority=7)
    await create(web, idempotency_key="one")

    every = (await web.client.get("/api/tasks/counts")).json()["counts"]
    tagged = (await web.client.get("/api/tasks/counts", params={"tag": "project:ads"})).json()["counts"]

    assert (every["submitted"], every["succeed"], sum(every.values())) == (2, 0, 2)
    assert sum(tagged.values()) == 1
    assert (await web.client.get("/api/tasks/counts", params={"state": "queued"})).status_code == 400


async def test_a_job_shows_whether_it_existed_and_its_priority(web: WebApp) -> None:
    first = await create(web, idempotency_key="one", priority=7)
    again = await create(web, idempotency_key="one", priority=7)
    refused = await web.client.post("/api/tasks", json={"endpoint": "images/generations", "body": {}, "priority": 1.5})

    assert (first["existing"], again["existing"]) == (False, True)
    assert (first["priority"], again["id"]) == (7, first["id"])
    assert refused.status_code == 400
