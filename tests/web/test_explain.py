"""A task's complete history over HTTP, from a real store."""

from datetime import timedelta
from typing import Any

from harness.clock import START
from harness.factories import a_delivery, a_push, a_task, an_event, at
from harness.web_app import WebApp
from msgspec.structs import replace

from receiver.domain.audit import AuditEntry
from receiver.domain.model import Attempt, DeliveryStatus, PushOutcome, RouteDecision, Source, TaskState, Verdict
from receiver.store.interfaces import ById, Change, RetentionTarget

CALLBACK = b'{"task_id":"k1","task_status":"succeed","task_result":{"images":[{"url":"https://cdn.example/0.png"}]}}'
POLL = b'{"code":0,"data":{"task_id":"k1","task_status":"processing"}}'
WANTED = RouteDecision(route="publish", wanted=True, reason="all conditions hold")


async def a_task_history(web: WebApp) -> None:
    """Store a succeeded task, with one delivery that failed once and waits."""
    task = a_task(state=TaskState.SUCCEED, due_at=None, expires_at=at(60))
    intent = b'{"prompt":"a cat","image":"' + b"A" * 5000 + b'","callback_url":"https://u:p@client.example/h?key=s"}'
    await web.store.tasks.add(task, intent)
    pushes = [
        a_push("psh_1", body=POLL, source=Source.POLL, outcome=PushOutcome.DUPLICATE),
        a_push("psh_2", body=CALLBACK, outcome=PushOutcome.APPLIED, received_at=at(1)),
        a_push("psh_3", body=b'{"huh":[]}', outcome=PushOutcome.UNRECOGNIZED, received_at=at(2)),
    ]
    for push in pushes:
        await web.store.tasks.apply(ById(id="tsk_1"), lambda *_, push=push: Change(push=push))
    envelope = b'{"type":"task.succeed","data":{"event_id":"evt_1","source":"callback","message":"well"}}'
    event = an_event(push_id="psh_2", body=CALLBACK, created_at=at(1), envelope=envelope, decisions=(WANTED,))
    await web.store.tasks.add_events([event], [a_delivery(created_at=at(1))])
    await web.store.deliveries.claim("publish", now=at(2), until=at(60), limit=1, claim="c")
    attempt = Attempt(
        delivery_id="dlv_1",
        number=1,
        started_at=at(2),
        duration=timedelta(milliseconds=7),
        outcome="failed",
        code=500,
        reason="500: look at its log.",
        excerpt=b"oh no",
    )
    await web.store.deliveries.record_attempt(attempt, Verdict(status=DeliveryStatus.PENDING, due_at=at(90)), claim="c")
    action = AuditEntry(at=at(3), actor="alice", verb="delivery.retried", subject="dlv_1", reason="hurry")
    await web.store.replays.make_due("dlv_1", now=at(80), action=action)


async def explain(web: WebApp, ref: str) -> Any:
    answer = await web.client.get(f"/api/tasks/{ref}/explain")
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_explain_shows_everything_stored_in_order(web: WebApp) -> None:
    await a_task_history(web)

    story = await explain(web, "k1")

    assert story["task"]["id"] == "tsk_1"
    assert [(push["source"], push["outcome"], push["status"]) for push in story["pushes"]] == [
        ("poll", "duplicate", "processing"),
        ("callback", "applied", "succeed"),
        ("callback", "unrecognized", ""),
    ]
    assert story["pushes"][1]["body"] == CALLBACK.decode()
    assert story["pushes"][1]["meaning"] == "changed the task"
    (event,) = story["events"]
    assert (event["type"], event["verified"], event["message"], event["push_id"]) == (
        "task.succeed",
        "api",
        "well",
        "psh_2",
    )
    assert event["decisions"] == [{"route": "publish", "wanted": True, "reason": "all conditions hold"}]
    (delivery,) = event["deliveries"]
    assert (delivery["id"], delivery["status"]) == ("dlv_1", "pending")
    assert [(attempt["code"], attempt["excerpt"]) for attempt in delivery["attempts_made"]] == [(500, "oh no")]
    assert story["actions"] == [
        {
            "at": "2026-11-22T10:00:03.000Z",
            "actor": "alice",
            "verb": "delivery.retried",
            "subject": "dlv_1",
            "why": "hurry",
        }
    ]
    assert story["next"] == (
        "publish: attempt 1 failed (500: look at its log); the next is at 2026-11-22 10:01:20 UTC."
    )


async def test_explain_shortens_the_intent_and_hides_the_clients_secrets(web: WebApp) -> None:
    await a_task_history(web)

    intent = (await explain(web, "tsk_1"))["intent"]

    assert intent["prompt"] == "a cat"
    assert intent["image"].startswith("(5000 characters, sha256 ")
    assert intent["callback_url"] == "https://client.example/..."


async def test_a_task_with_deleted_bodies_is_explained(web: WebApp) -> None:
    await a_task_history(web)
    for litter in (RetentionTarget.BODIES, RetentionTarget.INTENTS):
        await web.store.retention.sweep(litter, before=START + timedelta(days=30), now=START + timedelta(days=30))

    story = await explain(web, "tsk_1")

    assert story["intent"] is None
    deleted = (None, 0, None)
    of_the_event = (CALLBACK.decode(), len(CALLBACK), "succeed")
    shown = [(push["body"], push["bytes"], push["status"]) for push in story["pushes"]]
    assert shown == [deleted, of_the_event, deleted]
    assert [push["outcome"] for push in story["pushes"]] == ["duplicate", "applied", "unrecognized"]
    assert story["events"][0]["deliveries"]


async def test_a_task_without_history_is_explained(web: WebApp) -> None:
    await web.store.tasks.add(replace(a_task(), state=TaskState.FAILED, due_at=None), b"")

    story = await explain(web, "tsk_1")

    assert (story["intent"], story["pushes"], story["events"], story["actions"]) == (None, [], [], [])
    assert "no longer kept" in story["next"]


async def test_an_id_may_contain_a_slash_and_an_unknown_one_is_not_found(web: WebApp) -> None:
    await web.store.tasks.add(a_task(external_task_id="shop/42"), b"")

    assert (await explain(web, "shop/42"))["task"]["id"] == "tsk_1"
    assert (await explain(web, "shop%2F42"))["task"]["id"] == "tsk_1"
    missing = await web.client.get("/api/tasks/nobody/explain")
    assert (missing.status_code, missing.json()["code"]) == (404, "not_found")


async def test_the_form_of_klings_id_is_explained(web: WebApp) -> None:
    number = str(int(START.timestamp() * 1000) - 1_568_028_518_778 << 22)
    for name, kling_id in (("tsk_1", number), ("tsk_2", "task_01HF"), ("tsk_3", None)):
        await web.store.tasks.add(a_task(id=name, external_task_id=name, kling_id=kling_id), b"{}")

    stories = [await explain(web, name) for name in ("tsk_1", "tsk_2", "tsk_3")]

    assert [(story["kling_created_at"], story["kling_id_hint"]) for story in stories] == [
        ("2026-11-22T10:00:00.000Z", "made at 2026-11-22 10:00:00 UTC by its number; a hint"),
        (None, "not a number of Kling's; probably the gateway's own ID"),
        (None, ""),
    ]
