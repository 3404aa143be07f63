"""Every response of every operation matches the schema that ``/openapi.json`` has for it."""

import json
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pytest
from harness.clock import START
from harness.factories import a_delivery, a_push, a_task, an_event, at
from harness.json_schema import DocumentSchemas
from harness.web_app import TOKEN, WebApp
from starlette.responses import JSONResponse

from receiver.domain.api_schema.resources import Check
from receiver.domain.clock import iso
from receiver.domain.costs import Cost
from receiver.domain.model import DeliveryStatus, PushOutcome, RouteDecision, Source, TaskState, Verification
from receiver.events.payload import envelope, task_data
from receiver.store.interfaces import ById, Change
from receiver.web.openapi.document import openapi_document

DOCUMENT: dict[str, Any] = openapi_document().to_json()
SCHEMAS = DocumentSchemas(DOCUMENT)
TASK = {"endpoint": "images/multi-image2image", "body": {"prompt": "x"}, "batch": "spring", "tags": {"team": "a"}}
DEAD = {"status": ["dead"]}
EVENT_ID = "evt_" + "1" * 25
ALERT_ID = "alr_" + "2" * 25


HELD = envelope(
    "alert.route_held",
    START,
    {
        "event_id": "evt_" + "2" * 25,
        "message": "Route publish is held.",
        "route": "publish",
        "failures": 5,
        "reason": "HTTP 500",
        "held_by": "failures",
        "held_at": iso(START),
    },
)


@dataclass(frozen=True)
class Call:
    """A request, and the operation that it is described as."""

    method: str
    operation: str
    path: str
    status: int = 200
    body: Any = None

    def __str__(self) -> str:
        return f"{self.method} {self.path} {self.status}"


CALLS = [
    Call("POST", "/api/tasks", "/api/tasks", 202, TASK),
    Call("GET", "/api/tasks", "/api/tasks?limit=5"),
    Call("GET", "/api/tasks/counts", "/api/tasks/counts?tag=team:a"),
    Call("GET", "/api/tasks/{ref}", "/api/tasks/tsk_1"),
    Call("DELETE", "/api/tasks/{ref}", "/api/tasks/tsk_3?dry_run=true"),
    Call("GET", "/api/tasks/{ref}/explain", "/api/tasks/tsk_1/explain"),
    Call("POST", "/api/tasks/{ref}/cancel", "/api/tasks/tsk_2/cancel", 200, {"why": "a mistake"}),
    Call("GET", "/api/endpoints", "/api/endpoints"),
    Call("POST", "/api/callback-urls", "/api/callback-urls", 201, {"endpoint": "images/generations"}),
    Call("POST", "/api/callback-urls/{ref}/revoke", "/api/callback-urls/tsk_1/revoke"),
    Call("GET", "/api/batches", "/api/batches?state=open"),
    Call("GET", "/api/batches/{name}", "/api/batches/spring"),
    Call("POST", "/api/batches/{name}/close", "/api/batches/spring/close"),
    Call("GET", "/api/costs", "/api/costs?by=day&from=2026-01-01T00:00:00Z"),
    Call("POST", "/api/costs/check", "/api/costs/check", 200, {}),
    Call("POST", "/api/costs/estimate", "/api/costs/estimate", 200, {"endpoint": "images/generations", "body": {}}),
    Call("GET", "/api/events", "/api/events"),
    Call("GET", "/api/events/{id}", f"/api/events/{EVENT_ID}"),
    Call("GET", "/api/deliveries", "/api/deliveries?status=dead"),
    Call("GET", "/api/deliveries/{id}", "/api/deliveries/dlv_1"),
    Call("POST", "/api/deliveries/{id}/retry", "/api/deliveries/dlv_1/retry", 202),
    Call("GET", "/api/routes", "/api/routes"),
    Call("POST", "/api/routes/{name}/hold", "/api/routes/publish/hold", 200, {"why": "maintenance"}),
    Call("POST", "/api/routes/{name}/release", "/api/routes/publish/release"),
    Call("POST", "/api/routes/{name}/test", "/api/routes/publish/test"),
    Call("GET", "/api/alerts", "/api/alerts?state=open"),
    Call("GET", "/api/alerts/{id}", f"/api/alerts/{ALERT_ID}"),
    Call("POST", "/api/alerts/{id}/ack", f"/api/alerts/{ALERT_ID}/ack", 200, {"note": "seen"}),
    Call("POST", "/api/routes/{name}/backtest", "/api/routes/publish/backtest", 200, {"last": 5}),
    Call("POST", "/api/trigger", "/api/trigger", 201, {"state": "succeed"}),
    Call("GET", "/api/replays", "/api/replays"),
    Call("POST", "/api/replays", "/api/replays", 200, {**DEAD, "dry_run": True}),
    Call("POST", "/api/replays", "/api/replays", 202, DEAD),
    Call("GET", "/api/replays/{id}", "/api/replays/REPLAY"),
    Call("POST", "/api/replays/{id}/cancel", "/api/replays/REPLAY/cancel"),
    Call("POST", "/api/tasks/{ref}/retry", "/api/tasks/tsk_3/retry", 202),
    Call("GET", "/api/diagnostics", "/api/diagnostics"),
    Call("GET", "/api/nodes", "/api/nodes"),
    Call("POST", "/api/probes", "/api/probes", 201),
    Call("POST", "/api/console/links", "/api/console/links", 201),
    Call("GET", "/api/config/diff", "/api/config/diff"),
    Call("POST", "/api/config/reload", "/api/config/reload"),
    Call("GET", "/openapi.json", "/openapi.json"),
    Call("GET", "/healthz", "/healthz"),
    Call("GET", "/readyz", "/readyz"),
]


async def fill(web: WebApp) -> str:
    """Store one of everything; return the ID of a replay."""
    task = a_task(state=TaskState.SUCCEED, due_at=None)
    await web.store.tasks.add(task, b'{"prompt":"x"}')
    await web.store.tasks.add(
        a_task(id="tsk_2", external_task_id="tsk_2", state=TaskState.QUEUED, kling_id=None), b"{}"
    )
    failed = a_task(id="tsk_3", external_task_id="tsk_3", kling_id="867_3", state=TaskState.FAILED, due_at=None)
    await web.store.tasks.add(failed, b'{"prompt":"x"}')
    push, cost = a_push("psh_1", outcome=PushOutcome.APPLIED), Cost(charges={"units": Decimal("1.50")}, raw='{"a":1}')
    await web.store.tasks.apply(ById(id="tsk_1"), lambda *_: Change(task=task, push=push, cost=cost))
    decision = RouteDecision(route="publish", wanted=True, reason="all conditions hold")
    data = task_data(
        task,
        event_id=EVENT_ID,
        state=TaskState.SUCCEED,
        source=Source.CALLBACK,
        verified=Verification.API,
        result={"images": [{"url": "https://x.example/0.png"}]},
    )
    event = an_event(EVENT_ID, push_id="psh_1", envelope=envelope("task.succeed", START, data), decisions=(decision,))
    dead = a_delivery(event_id=EVENT_ID, status=DeliveryStatus.DEAD, finished_at=at(0))
    await web.store.tasks.add_events([event], [dead])
    alert = an_event("evt_" + "2" * 25, type="alert.route_held", body=b"", task_id=None, envelope=HELD)
    await web.store.tasks.add_events([alert], [])
    answer = await web.client.post("/api/tasks", json=TASK)
    assert answer.status_code == 202, answer.text
    return str((await web.client.post("/api/replays", json=DEAD)).json()["id"])


def schema_of(method: str, path: str, status: str, media_type: str = "application/json") -> Any:
    return DOCUMENT["paths"][path][method.lower()]["responses"][status]["content"][media_type]["schema"]


@pytest.mark.parametrize("call", CALLS, ids=str)
async def test_a_response_matches_its_schema(web: WebApp, call: Call) -> None:
    replay = await fill(web)

    answer = await web.client.request(call.method, call.path.replace("REPLAY", replay), json=call.body)

    assert answer.status_code == call.status, answer.text
    assert SCHEMAS.errors(answer.json(), schema_of(call.method, call.operation, str(call.status))) == []
    assert answer.json().get("items") != []


async def test_an_unready_service_matches_its_schema(web: WebApp) -> None:
    web.checks[:] = [Check(name="store", ok=False, reason="The disk is full.")]

    answer = await web.client.get("/readyz")

    assert answer.status_code == 503
    assert SCHEMAS.errors(answer.json(), schema_of("GET", "/readyz", "503")) == []


async def test_the_streams_events_match_their_schema(web: WebApp) -> None:
    await fill(web)
    event_schema = DOCUMENT["components"]["schemas"]["Event"]
    start = "evt_" + "0" * 25

    async with web.client.stream("GET", f"/api/stream?after={start}&type=task.succeed") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert schema_of("GET", "/api/stream", "200", "text/event-stream")["type"] == "string"
        async for line in answer.aiter_lines():
            if line.startswith("data: "):
                assert SCHEMAS.errors(json.loads(line.removeprefix("data: ")), event_schema) == []
                break


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/api/tasks/none", 404),
        ("GET", "/api/tasks?limit=0", 400),
        ("POST", "/api/tasks/tsk_1/cancel", 409),
        ("GET", "/api", 404),
        ("PUT", "/api/tasks", 405),
    ],
)
async def test_an_error_matches_its_schema(web: WebApp, method: str, path: str, status: int) -> None:
    await fill(web)

    answer = await web.client.request(method, path)

    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    problem = DOCUMENT["components"]["schemas"]["Problem"]
    assert SCHEMAS.errors(answer.json(), problem) == []


async def test_a_refused_submit_matches_its_schema(web: WebApp) -> None:
    web.kling.answer = lambda _: JSONResponse({"code": 1201, "message": "the prompt is too long"}, 400)

    answer = await web.client.post("/api/tasks", json=TASK)

    assert answer.status_code == 422
    schema = schema_of("POST", "/api/tasks", "422", "application/problem+json")
    assert SCHEMAS.errors(answer.json(), schema) == []


async def test_a_request_without_token_gets_a_described_error(web: WebApp) -> None:
    answer = await web.client.get("/api/tasks", headers={"authorization": f"Bearer not-{TOKEN}"})

    assert answer.status_code == 401
    problem = DOCUMENT["components"]["schemas"]["Problem"]
    assert SCHEMAS.errors(answer.json(), problem) == []


def test_every_described_response_is_checked() -> None:
    described = {
        (method.upper(), path, status)
        for path, methods in DOCUMENT["paths"].items()
        for method, operation in methods.items()
        for status, response in operation["responses"].items()
        if "$ref" not in response  # an error
    }
    checked = {(call.method, call.operation, str(call.status)) for call in CALLS}

    others = {("GET", "/readyz", "503"), ("GET", "/api/stream", "200"), ("GET", "/metrics", "200")}
    others |= {("POST", "/api/tasks", "422")}
    others |= {("GET", "/results/{task}/{file}", status) for status in ("200", "206")}
    assert described == checked | others
