"""Ways to fill a store for the console, to log in, and to name its pages."""

import json
import re
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from harness.browser import Watched
from harness.factories import a_delivery, a_push, a_task, an_event
from harness.finished_tasks import a_finished_task
from harness.web_app import TOKEN, WebApp
from msgspec.structs import replace
from starlette.routing import Route

from receiver.domain.audit import AuditEntry
from receiver.domain.costs import Cost
from receiver.domain.model import (
    Attempt,
    DeliveryStatus,
    HeldBy,
    PushOutcome,
    RouteState,
    Source,
    TaskState,
    Verdict,
    Verification,
)
from receiver.events.payload import envelope, task_data
from receiver.kling.simulator.results import content
from receiver.store.interfaces import ById, Change
from receiver.web.console.gate import LOGIN
from receiver.web.console.lazy_pages import LazyPages

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'><svg onload=alert(3)>{{7*7}}javascript:alert(4)"


async def log_in(visitor: Watched, token: str = TOKEN, *, name: str = "") -> None:
    """Log in by the request of the form, for tests of other pages: a browser works long to fill in a form."""
    answer = await visitor.page.context.request.post(
        f"{visitor.origin}{LOGIN}",
        form={"token": token, "name": name},
        headers={"origin": visitor.origin, "sec-fetch-site": "same-origin"},
        max_redirects=0,
    )
    assert answer.status == 303, await answer.text()


async def fill_in_login(visitor: Watched, token: str = TOKEN, *, name: str = "") -> None:
    """Log in by the form. The page that is open afterwards is the console's first."""
    await visitor.open(LOGIN)
    await visitor.page.get_by_label("Your name").fill(name)
    await visitor.page.get_by_label("Admin token").fill(token)
    await visitor.page.get_by_role("button", name="Log in").click()
    await visitor.page.wait_for_url(re.compile(r"/console$"))


def all_routes(web: WebApp) -> list[Route]:
    """The routes of the admin app, with those of pages that are not loaded yet."""
    found = [
        *web.app.routes,
        *(page for each in web.app.routes if isinstance(each, LazyPages) for page in each.routes),
    ]
    return [each for each in found if isinstance(each, Route)]


async def fill(web: WebApp, *, text: str = "a red fox") -> dict[str, str]:
    """Store one of everything, with *text* wherever the outside may write. Return the addresses of the pages."""
    now, ids = web.clock.now(), web.ids
    task = await web.store.tasks.add(
        a_task(
            id=ids.new("tsk"),
            label=text[:200],
            tags={"note": text[:200]},
            message=text,
            kling_id=f"kling-{text}"[:200],
            external_task_id=f"mine-{text}"[:200],
            started_at=now,
            created_at=now,
        ),
        json.dumps({"prompt": text, text: text}).encode(),
    )
    push = a_push(
        ids.new("psh"),
        task_id=task.id,
        headers=(("x-note", text), ("authorization", "Bearer hidden-in-a-push")),
        body=json.dumps({"task_status": "succeed", "task_status_msg": text}).encode(),
        received_at=now + timedelta(seconds=2),
        outcome=PushOutcome.APPLIED,
    )
    event_id, delivery_id, dead_id = ids.new("evt"), ids.new("dlv"), ids.new("dlv")
    done = replace(task, state=TaskState.SUCCEED)
    data = task_data(
        done,
        event_id=event_id,
        state=TaskState.SUCCEED,
        source=Source.CALLBACK,
        verified=Verification.NONE,
        result={"images": [{"index": 0, "url": f"https://cdn.example.com/{text}"}, {"url": f"javascript:{text}"}]},
    )
    event = an_event(event_id, task_id=task.id, envelope=envelope("task.succeed", now, data), push_id=push.id)
    deliveries = [
        a_delivery(each, event_id=event_id, route=name) for each, name in ((delivery_id, "publish"), (dead_id, "shop"))
    ]
    change = Change(
        task=done,
        push=push,
        events=[event],
        deliveries=deliveries,
        cost=Cost(charges={text[:100]: Decimal("1.5"), "units": Decimal(2)}, raw="{}"),
        action=AuditEntry(at=now, actor=text, verb="task.cancelled", subject=task.id, reason=text),
    )
    await web.store.tasks.apply(ById(id=task.id), lambda _task, _pending: change)
    await _fail(web, dead_id, "shop", text)
    state = RouteState(name="publish", held_at=now, held_by=HeldBy.FAILURES, held_why=text)
    await web.store.deliveries.save_route(state)
    await web.client.post(
        "/api/tasks", json={"endpoint": "images/generations", "body": {"prompt": text}, "batch": "spring"}
    )
    return {
        "now": "/console",
        "tasks": "/console/tasks",
        "task": f"/console/tasks/{task.id}",
        "push": f"/console/tasks/{task.id}?bar={push.id}",
        "attempt": f"/console/tasks/{task.id}?bar={dead_id}-1",
        "events": "/console/events",
        "event": f"/console/events/{event_id}",
        "deliveries": "/console/deliveries",
        "dead": "/console/deliveries?status=dead",
        "delivery": f"/console/deliveries/{dead_id}",
        "attempts": "/console/attempts",
        "replays": "/console/replays",
        "replay": "/console/replays/new?status=dead",
        "routes": "/console/routes",
        "alerts": "/console/alerts?state=open,acknowledged,closed",
        "batches": "/console/batches",
        "batch": "/console/batches/spring",
        "results": "/console/results",
        "submit": "/console/submit",
        "submit a video": "/console/submit?endpoint=videos/text2video",
        "costs": "/console/costs",
        "configuration": "/console/configuration",
        "manual": "/console/manual",
        "manual page": "/console/manual/routes",
    }


async def add_results(web: WebApp, folder: Path, *, text: str = "a red fox") -> None:
    """Store tasks with archived pictures, a video and a result that is still at Kling."""
    for files in (
        ((content("a", "image-0.png"), "image/png"), (content("b", "image-0.png"), "image/png")),
        ((content("film", "video-0.mp4"), "video/mp4"),),
        ((text.encode(), "text/html"),),
        (None,),
    ):
        await a_finished_task(
            web.store,
            web.ids,
            folder,
            *files,
            at=web.clock.now(),
            label=text[:200],
            batch="spring",
            tags={"note": text[:200]},
        )


async def _fail(web: WebApp, delivery_id: str, route: str, text: str) -> None:
    """Let a delivery fail for good; its destination answers *text*."""
    now: Any = web.clock.now()
    await web.store.deliveries.claim(route, now=now, until=now + timedelta(minutes=1), limit=1, claim="c")
    attempt = Attempt(
        delivery_id=delivery_id,
        number=1,
        started_at=now,
        duration=timedelta(milliseconds=12),
        outcome="refused",
        code=400,
        reason=text,
        excerpt=text.encode(),
    )
    verdict = Verdict(status=DeliveryStatus.DEAD, due_at=now, finished_at=now)
    assert await web.store.deliveries.record_attempt(attempt, verdict, claim="c")
