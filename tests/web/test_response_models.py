"""Every JSON response of the admin API matches the schema that the document has for it."""

from typing import Any

import pytest
from harness.factories import a_delivery, a_push, a_task, an_event, at
from harness.web_app import WebApp

from receiver.domain.model import DeliveryStatus, PushOutcome, RouteDecision, TaskState
from receiver.store.interfaces import ById, Change
from receiver.web import models
from receiver.web.openapi.document import OPENAPI_DOCUMENT

JOB = {"endpoint": "images/multi-image2image", "body": {"prompt": "x"}, "batch": "spring"}
DEAD = {"status": ["dead"]}
ENVELOPE = (
    b'{"type":"task.succeed","timestamp":"2026-11-22T10:00:00Z",'
    b'"data":{"event_id":"evt_1","source":"callback","result":{"images":[{"url":"https://x.example/0.png"}]}}}'
)

# Method, path, body, and the model of the response; a list for a page of items.
OPERATIONS: list[tuple[str, str, Any, Any]] = [
    ("POST", "/api/tasks", JOB, models.Task),
    ("GET", "/api/tasks", None, [models.Task]),
    ("GET", "/api/tasks/tsk_1", None, models.Task),
    ("GET", "/api/tasks/tsk_1/explain", None, models.TaskExplanation),
    ("POST", "/api/callback-urls/tsk_1/revoke", {}, models.Task),
    ("GET", "/api/endpoints", None, [models.Endpoint]),
    ("GET", "/api/batches", None, [models.Batch]),
    ("GET", "/api/batches/spring", None, models.Batch),
    ("POST", "/api/batches/spring/close", {}, models.Batch),
    ("GET", "/api/events", None, [models.Event]),
    ("GET", "/api/events/evt_1", None, models.Event),
    ("GET", "/api/deliveries", None, [models.Delivery]),
    ("GET", "/api/deliveries/dlv_1", None, models.Delivery),
    ("POST", "/api/deliveries/dlv_1/retry", {}, models.Delivery),
    ("GET", "/api/routes", None, [models.Route]),
    ("POST", "/api/routes/publish/hold", {}, models.Route),
    ("POST", "/api/routes/publish/release", {}, models.Route),
    ("POST", "/api/routes/publish/test", {}, models.RouteTestOutcome),
    ("POST", "/api/replays", {**DEAD, "dry_run": True}, models.ReplayPreview),
    ("POST", "/api/replays", DEAD, models.Replay),
    ("GET", "/api/tasks/none", None, models.Problem),
]


async def fill(web: WebApp) -> None:
    await web.store.add(a_task(state=TaskState.SUCCEED, due_at=None), b'{"prompt":"x"}')
    await web.store.apply(ById(id="tsk_1"), lambda *_: Change(push=a_push("psh_1", outcome=PushOutcome.APPLIED)))
    decision = RouteDecision(route="publish", wanted=True, reason="all conditions hold")
    event = an_event(push_id="psh_1", envelope=ENVELOPE, decisions=(decision,))
    await web.store.add_events([event], [a_delivery(status=DeliveryStatus.DEAD, finished_at=at(0))])
    answer = await web.client.post("/api/tasks", json=JOB)
    assert answer.status_code == 202, answer.text


@pytest.mark.parametrize(("method", "path", "body", "model"), OPERATIONS)
async def test_a_response_matches_its_model(web: WebApp, method: str, path: str, body: Any, model: Any) -> None:
    await fill(web)

    answer = (await web.client.request(method, path, json=body)).json()

    items: list[Any] = answer["items"] if isinstance(model, list) else [answer]
    item_model = model[0] if isinstance(model, list) else model
    assert items
    for item in items:
        item_model.model_validate(item, extra="forbid")


async def test_replays_match_their_model(web: WebApp) -> None:
    await fill(web)
    replay = (await web.client.post("/api/replays", json=DEAD)).json()

    shown = (await web.client.get(f"/api/replays/{replay['id']}")).json()
    (listed,) = (await web.client.get("/api/replays")).json()["items"]
    cancelled = (await web.client.post(f"/api/replays/{replay['id']}/cancel")).json()

    for each in (shown, listed, cancelled):
        models.Replay.model_validate(each, extra="forbid")


async def test_costs_and_readiness_match_their_models(web: WebApp) -> None:
    costs = (await web.client.get("/api/costs")).json()
    ready = (await web.client.get("/readyz")).json()

    operation = OPENAPI_DOCUMENT["paths"]["/api/costs"]["get"]["responses"]["200"]
    assert costs.keys() == operation["content"]["application/json"]["schema"]["properties"].keys()
    models.CostTotal.model_validate(costs["total"], extra="forbid")
    for check in ready["checks"]:
        models.Check.model_validate(check, extra="forbid")
