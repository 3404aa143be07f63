"""The number of series is bounded, whatever clients, Kling and destinations write."""

from decimal import Decimal

from harness.factories import a_delivery, a_task, an_event
from harness.waiting import wait_until
from harness.web_app import WebApp
from prometheus_client.parser import text_string_to_metric_families as parse
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from receiver.domain.costs import Cost
from receiver.domain.model import TaskState
from receiver.store.interfaces import ById, Change

HOSTILE = 'quo"te\\back\nline}{=, \u202e\u0000<script>'
SUBMITTED = "kling_receiver_tasks{'state': 'submitted'}"
SPENT = "kling_receiver_spent_total"
AT_MOST = 400
"""Series of a receiver with one route."""


async def series(web: WebApp) -> set[str]:
    """Return the series as the monitoring system sees them, once they show the present tasks: they are kept for 3 s."""
    stored = (await web.store.catalog.counts())[TaskState.SUBMITTED]
    shown: dict[str, float] = {}

    async def is_present() -> bool:
        answer = await web.client.get("/metrics")
        assert answer.status_code == 200, answer.text
        samples = (each for family in parse(answer.text) for each in family.samples)
        shown.clear()
        shown.update({f"{each.name}{each.labels}": each.value for each in samples})
        return shown.get(SUBMITTED) == stored

    await wait_until(is_present, seconds=60, interval=0.2)
    return set(shown)


async def write_everywhere(web: WebApp, text: str, number: int) -> None:
    """Let each place that takes text from outside have one of its own: clients, Kling and destinations."""

    def refuse(_request: Request) -> Response:
        return JSONResponse({"code": 70_000 + number, "message": text}, 400)

    web.kling.answer = refuse if number % 2 else web.kling.answer
    body = {"prompt": text, "model_name": text, "mode": text}
    common = {"label": text, "tags": {f"key-{number}": text}}
    await web.client.post("/api/tasks", json={"endpoint": f"images/{number}", "body": body, **common})
    await web.client.post("/api/tasks", json={"endpoint": "images/generations", "body": body, "label": text})
    await web.client.post(f"/kling/v1/images/new-{number}", json=body)
    await web.client.post(f"http://{web.public}/callbacks/{number}", content=text.encode())
    task_id, event_id = web.ids.new("tsk"), web.ids.new("evt")
    task = a_task(id=task_id, endpoint=text, kling_id=task_id, external_task_id=None, slot_key=f"image/{text}")
    await web.store.tasks.add(task, b"", events=[an_event(event_id, task_id=task_id, type="task.processing")])
    change = Change(
        task=task,
        cost=Cost(charges={text: Decimal(1)}, raw="{}"),
        deliveries=[a_delivery(web.ids.new("dlv"), event_id=event_id, route=text)],
    )
    await web.store.tasks.apply(ById(id=task_id), lambda _task, _pending: change)


async def test_hostile_texts_add_a_bounded_number_of_series(web: WebApp) -> None:
    for number in range(60):
        await write_everywhere(web, f"{number} {HOSTILE}", number)
    before = await series(web)
    for number in range(60, 120):
        await write_everywhere(web, f"{number} {HOSTILE}", number)
    after = await series(web)

    assert len(before) > 100
    assert len(after) <= AT_MOST
    assert len({name for name in after if name.startswith(SPENT)}) == 50
    grown = {name for name in after - before if not name.startswith(SPENT)}
    assert {name for name in grown if "<script>" in name} == set()
    assert len(grown) <= 10
    assert (await web.store.catalog.counts())[TaskState.SUBMITTED] > 100
