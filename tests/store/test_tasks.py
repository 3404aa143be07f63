"""What a store promises about tasks and what happens to them."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from hashlib import sha256

import pytest
from harness.factories import a_delivery, a_push, a_task, an_event, at
from store.conftest import Store, decide_always, record_arguments

from receiver.domain.errors import Conflict
from receiver.domain.model import Origin, Push, PushOutcome, Source, Task, TaskState
from receiver.store.interfaces import ById, ByToken, Change, TaskRef

TOKEN = sha256(b"token").digest()
FIRST = ById(id="tsk_1")


async def test_a_task_comes_back_as_it_was_stored(store: Store) -> None:
    task = a_task(
        origin=Origin.API,
        token_hash=TOKEN,
        label="ein Löwe",
        tags={"project": "ads", "schön": "🦁"},
        idempotency_key="key",
        reply_to="https://client.example/hook",
        message="why",
        kling_state=TaskState.PROCESSING,
        weight=3,
        attempts=2,
        poll_count=5,
        empty_result_count=2,
        redundant_push_count=7,
        started_at=at(0.5),
        polled_at=at(1.000001),
        due_at=at(2),
        expires_at=at(3),
    )

    await store.add(task, b"\x00\xffbody")

    assert await store.task("tsk_1") == task
    assert await store.intent("tsk_1") == b"\x00\xffbody"


async def test_a_task_of_nulls_comes_back_as_it_was_stored(store: Store) -> None:
    task = a_task(endpoint=None, kling_id=None, external_task_id=None, pack=None, due_at=None)

    await store.add(task, b"")

    assert await store.task("tsk_1") == task
    assert await store.intent("tsk_1") == b""


async def test_a_token_is_known_until_its_task_expires(store: Store) -> None:
    await store.add(a_task(token_hash=TOKEN, expires_at=at(10)), b"")
    await store.add(a_task(id="tsk_2", token_hash=sha256(b"other").digest(), external_task_id="e2", kling_id="k2"), b"")

    assert await store.has_live_token(TOKEN, now=at(9))
    assert not await store.has_live_token(TOKEN, now=at(10))
    assert await store.has_live_token(sha256(b"other").digest(), now=at(1_000_000))
    assert not await store.has_live_token(sha256(b"guess").digest(), now=at(0))


async def test_the_intent_of_an_unknown_task_is_empty(store: Store) -> None:
    assert await store.intent("tsk_none") == b""


async def test_a_new_task_brings_its_events(store: Store) -> None:
    event = an_event(type="task.queued")

    await store.add(a_task(), b"{}", events=[event])

    assert await store.event("evt_1") == event


async def test_an_idempotency_key_seen_before_gives_the_first_task(store: Store) -> None:
    first = a_task(idempotency_key="key")
    await store.add(first, b"first")

    second = await store.add(
        a_task(id="tsk_2", idempotency_key="key"), b"second", events=[an_event(task_id="tsk_2", type="task.queued")]
    )

    assert second == first
    assert await store.task("tsk_2") is None
    assert await store.intent("tsk_2") == b""
    assert await store.event("evt_1") is None


async def test_of_many_at_once_with_one_idempotency_key_one_is_stored(store: Store) -> None:
    tasks = [a_task(id=f"tsk_{n:02}", idempotency_key="key") for n in range(40)]

    given = await asyncio.gather(*(store.add(task, task.id.encode()) for task in tasks))

    assert len({task.id for task in given}) == 1
    assert [task.id for task in (await store.tasks()).items] == [given[0].id]
    assert await store.intent(given[0].id) == given[0].id.encode()


async def test_two_tasks_cannot_have_one_token(store: Store) -> None:
    await store.add(a_task(token_hash=TOKEN), b"")

    with pytest.raises(Conflict):
        await store.add(a_task(id="tsk_2", token_hash=TOKEN), b"")


async def test_text_that_no_database_holds_is_kept_as_far_as_it_can_be(store: Store) -> None:
    await store.add(a_task(message="a\x00b\ud800c", label="\udfff", tags={"k": "\ud800"}), b"")

    task = await store.task("tsk_1")
    assert task is not None
    assert (task.message, task.label) == ("a\ufffdb\ufffdc", "\ufffd")


async def test_news_of_an_unknown_task_reaches_no_judge(store: Store) -> None:
    seen: list[tuple[Task, list[Push]]] = []

    assert await store.apply(ById(id="tsk_none"), record_arguments(seen)) is None
    assert await store.apply(ByToken(token_hash=TOKEN), record_arguments(seen)) is None
    assert seen == []


async def test_a_judge_sees_the_task_as_it_is(store: Store) -> None:
    task = a_task(token_hash=TOKEN)
    await store.add(task, b"")
    seen: list[tuple[Task, list[Push]]] = []

    await store.apply(ByToken(token_hash=TOKEN), record_arguments(seen))
    await store.apply(FIRST, record_arguments(seen))

    assert seen == [(task, []), (task, [])]


async def test_all_that_a_judge_decides_is_written(store: Store) -> None:
    await store.add(a_task(), b"before")
    change = Change(
        task=a_task(state=TaskState.SUCCEED, message="done", due_at=None),
        push=a_push(
            body=b"\x00\xff", headers=(("a", "1"), ("a", "é")), outcome=PushOutcome.APPLIED, source=Source.POLL
        ),
        events=[an_event(push_id="psh_1", body=b"\x00\xff")],
        deliveries=[a_delivery()],
        intent=b"after",
    )

    given = await store.apply(FIRST, decide_always(change))

    assert given == change
    assert await store.task("tsk_1") == change.task
    assert await store.pushes("tsk_1") == [change.push]
    assert await store.event("evt_1") == change.events[0]
    delivery = await store.delivery("dlv_1")
    assert delivery is not None
    assert delivery.delivery == change.deliveries[0]
    assert await store.intent("tsk_1") == b"after"


async def test_an_earlier_push_gets_its_outcome(store: Store) -> None:
    await store.add(a_task(), b"")
    await store.apply(FIRST, decide_always(Change(push=a_push())))

    await store.apply(FIRST, decide_always(Change(resolved={"psh_1": PushOutcome.FORGED})))

    assert [push.outcome for push in await store.pushes("tsk_1")] == [PushOutcome.FORGED]


async def test_a_judge_that_asks_sees_the_pushes_that_await_confirmation(store: Store) -> None:
    await store.add(a_task(), b"")
    await store.add(a_task(id="tsk_2"), b"")
    waiting, settled = a_push("psh_1"), a_push("psh_2", outcome=PushOutcome.STALE)
    await store.apply(FIRST, decide_always(Change(push=waiting)))
    await store.apply(FIRST, decide_always(Change(push=settled)))
    await store.apply(ById(id="tsk_2"), decide_always(Change(push=a_push("psh_3", task_id="tsk_2"))))
    seen: list[tuple[Task, list[Push]]] = []

    await store.apply(FIRST, record_arguments(seen), with_pending=True)
    await store.apply(FIRST, record_arguments(seen))

    assert [pending for _, pending in seen] == [[waiting], []]


async def test_judges_of_one_task_see_what_the_one_before_wrote(store: Store) -> None:
    await store.add(a_task(token_hash=TOKEN), b"")

    def count(task: Task, pending: Sequence[Push]) -> Change:
        assert len(pending) == task.poll_count
        return Change(task=replace(task, poll_count=task.poll_count + 1), push=a_push(f"psh_{task.poll_count:03}"))

    refs: list[TaskRef] = [FIRST, ByToken(token_hash=TOKEN)] * 50
    await asyncio.gather(*(store.apply(ref, count, with_pending=True) for ref in refs))

    task = await store.task("tsk_1")
    assert task is not None
    assert task.poll_count == 100
    assert len(await store.pushes("tsk_1")) == 100


async def test_a_judge_sees_which_pushes_the_one_before_settled(store: Store) -> None:
    await store.add(a_task(), b"")
    seen: list[tuple[Task, list[Push]]] = []
    changes = [Change(push=a_push("psh_1")), Change(push=a_push("psh_2"), resolved={"psh_1": PushOutcome.STALE})]

    await asyncio.gather(
        *(store.apply(FIRST, decide_always(change)) for change in changes),
        store.apply(FIRST, record_arguments(seen), with_pending=True),
    )

    assert [[push.id for push in pending] for _, pending in seen] == [["psh_2"]]
    assert [push.outcome for push in await store.pushes("tsk_1")] == [PushOutcome.STALE, PushOutcome.PENDING]


async def test_a_revoked_token_finds_nothing_any_more_also_at_once(store: Store) -> None:
    await store.add(a_task(token_hash=TOKEN), b"")
    new = sha256(b"new").digest()
    seen: list[tuple[Task, list[Push]]] = []

    _, old = await asyncio.gather(
        store.apply(FIRST, decide_always(Change(task=a_task(token_hash=new)))),
        store.apply(ByToken(token_hash=TOKEN), record_arguments(seen)),
    )

    assert old is None
    assert await store.apply(ByToken(token_hash=TOKEN), record_arguments(seen)) is None
    assert await store.apply(ByToken(token_hash=new), record_arguments(seen)) is not None


async def test_a_judge_that_raises_spoils_nothing_but_its_own(store: Store) -> None:
    await store.add(a_task(), b"")

    def refuse(task: Task, _pending: Sequence[Push]) -> Change:
        raise LookupError(task.id)

    good = [store.apply(FIRST, decide_always(Change(push=a_push(f"psh_{n}")))) for n in range(9)]
    results = await asyncio.gather(*good, store.apply(FIRST, refuse), return_exceptions=True)

    assert [type(result) for result in results] == [*[Change] * 9, LookupError]
    assert len(await store.pushes("tsk_1")) == 9


async def test_a_judge_cannot_change_another_task(store: Store) -> None:
    await store.add(a_task(), b"")
    await store.add(a_task(id="tsk_2"), b"")

    with pytest.raises(ValueError, match="tsk_2"):
        await store.apply(FIRST, decide_always(Change(task=a_task(id="tsk_2"))))


async def test_what_the_database_refuses_fails_for_its_own_caller_alone(store: Store) -> None:
    await store.add(a_task(), b"")
    await store.apply(FIRST, decide_always(Change(push=a_push("psh_taken"))))

    good = [store.apply(FIRST, decide_always(Change(push=a_push(f"psh_{n}")))) for n in range(9)]
    twice = store.apply(FIRST, decide_always(Change(task=a_task(message="never"), push=a_push("psh_taken"))))
    results = await asyncio.gather(*good, twice, return_exceptions=True)

    assert [type(result) for result in results] == [*[Change] * 9, Conflict]
    assert len(await store.pushes("tsk_1")) == 10
    task = await store.task("tsk_1")
    assert task is not None
    assert task.message == ""


@pytest.mark.parametrize("end", [TaskState.SUCCEED, TaskState.FAILED])
@pytest.mark.parametrize("after", [TaskState.PROCESSING, TaskState.EXPIRED, TaskState.SUCCEED, TaskState.FAILED])
async def test_a_task_never_leaves_succeed_or_failed(store: Store, end: TaskState, after: TaskState) -> None:
    await store.add(a_task(state=end), b"")

    if after is end:
        await store.apply(FIRST, decide_always(Change(task=a_task(state=after))))
    else:
        with pytest.raises(Conflict):
            await store.apply(FIRST, decide_always(Change(task=a_task(state=after))))

    task = await store.task("tsk_1")
    assert task is not None
    assert task.state is end


async def test_a_task_has_one_terminal_event(store: Store) -> None:
    await store.add(a_task(), b"")
    await store.apply(FIRST, decide_always(Change(events=[an_event("evt_1", type="task.expired")])))
    await store.apply(FIRST, decide_always(Change(events=[an_event("evt_2", type="task.succeed")])))

    with pytest.raises(Conflict):
        await store.apply(FIRST, decide_always(Change(events=[an_event("evt_3", type="task.failed")])))


async def test_an_event_is_promised_to_a_route_once_and_replayed_as_often_as_wanted(store: Store) -> None:
    await store.add(a_task(), b"")
    await store.apply(FIRST, decide_always(Change(events=[an_event()], deliveries=[a_delivery("dlv_1")])))

    again = [a_delivery("dlv_2"), a_delivery("dlv_3", route="other")]
    await store.add_events([], again)
    await store.add_events([], [a_delivery("dlv_4", replay_of="dlv_1"), a_delivery("dlv_5", replay_of="dlv_1")])

    listed = [view.delivery.id for view in (await store.deliveries()).items]
    assert listed == ["dlv_5", "dlv_4", "dlv_3", "dlv_1"]


async def test_an_alert_belongs_to_no_task(store: Store) -> None:
    alert = an_event(type="alert.route_held", task_id=None, body=b"")

    await store.add_events([alert], [a_delivery()])

    assert await store.event("evt_1") == alert
    [claimed] = await store.claim("publish", now=at(1), until=at(60), limit=1, claim="c")
    assert (claimed.event, claimed.reply_to) == (alert, None)


async def test_due_tasks_are_claimed_longest_due_first_and_once(store: Store) -> None:
    for n, due in enumerate([5, 3, 1, 4, 100, 2]):
        state = TaskState.SUBMITTED if n % 2 else TaskState.PROCESSING
        await store.add(a_task(id=f"tsk_{n}", state=state, due_at=at(due)), b"")
    await store.add(a_task(id="tsk_final", state=TaskState.SUCCEED, due_at=at(0)), b"")
    await store.add(a_task(id="tsk_never", due_at=None), b"")
    running = [TaskState.SUBMITTED, TaskState.PROCESSING]

    first = await store.claim_tasks(running, now=at(10), until=at(70), limit=3)
    second = await store.claim_tasks(running, now=at(10), until=at(70), limit=3)
    third = await store.claim_tasks(running, now=at(10), until=at(70), limit=3)

    assert [task.id for task in first] == ["tsk_2", "tsk_5", "tsk_1"]
    assert [task.id for task in second] == ["tsk_3", "tsk_0"]
    assert third == []
    assert {task.due_at for task in [*first, *second]} == {at(70)}
    assert await store.task("tsk_2") == first[0]
    assert len(await store.claim_tasks(running, now=at(70), until=at(99), limit=9)) == 5


async def test_tasks_that_a_push_has_asked_about_can_go_first_until_they_are(store: Store) -> None:
    for n in range(4):
        await store.add(a_task(id=f"tsk_{n}", due_at=at(n)), b"")
    pushed = {"due_at": at(9), "push_poll_at": at(9)}
    await store.add(a_task(id="tsk_pushed", polled_at=at(8), **pushed), b"")
    await store.add(a_task(id="tsk_never_asked", **pushed), b"")
    await store.add(a_task(id="tsk_asked_since", **pushed | {"polled_at": at(9), "due_at": at(8)}), b"")
    await store.add(a_task(id="tsk_over", state=TaskState.SUCCEED, **pushed), b"")
    await store.add(a_task(id="tsk_later", **pushed | {"due_at": at(11)}), b"")
    running = [TaskState.SUBMITTED, TaskState.PROCESSING]

    first = await store.claim_tasks(running, now=at(10), until=at(70), limit=3, pushes_first=True)
    rest = await store.claim_tasks(running, now=at(10), until=at(70), limit=9, pushes_first=True)

    assert [task.id for task in first] == ["tsk_never_asked", "tsk_pushed", "tsk_0"]
    assert [task.id for task in rest] == ["tsk_1", "tsk_2", "tsk_3", "tsk_asked_since"]


async def test_many_who_claim_at_once_share_the_tasks(store: Store) -> None:
    await asyncio.gather(*(store.add(a_task(id=f"tsk_{n:03}"), b"") for n in range(100)))

    claims = [store.claim_tasks([TaskState.SUBMITTED], now=at(60), until=at(120), limit=7) for _ in range(20)]
    claimed = [task.id for tasks in await asyncio.gather(*claims) for task in tasks]

    assert sorted(claimed) == [f"tsk_{n:03}" for n in range(100)]


async def test_tasks_of_some_endpoints_are_claimed_and_all_others_left_due(store: Store) -> None:
    for number, endpoint in enumerate(["a/b", "c/d", None, "a/b", "e/f"]):
        await store.add(a_task(id=f"tsk_{number}", endpoint=endpoint, due_at=at(number)), b"")
    running = [TaskState.SUBMITTED]

    some = await store.claim_tasks(running, now=at(10), until=at(70), limit=3, endpoints=["a/b", "e/f"])
    none = await store.claim_tasks(running, now=at(10), until=at(70), limit=3, endpoints=[])

    assert [task.id for task in some] == ["tsk_0", "tsk_3", "tsk_4"]
    assert none == []
    assert await store.next_task_due(running) == at(1)


async def test_hastened_tasks_are_due_at_once_or_as_soon_as_they_may_be_asked_about_again(store: Store) -> None:
    moments = {"over": 5, "claimed": 60, "just asked": 60, "soon": 11, "far": 400, "asked in time to come": 60}
    for name, due in moments.items():
        asked_at = {"just asked": at(9), "claimed": at(1), "soon": at(9), "asked in time to come": at(50)}.get(name)
        await store.add(a_task(id=name, due_at=at(due), polled_at=asked_at), b"")
    await store.add(a_task(id="queued", state=TaskState.QUEUED, due_at=at(60)), b"")
    await store.add(a_task(id="never", due_at=None), b"")

    count = await store.make_due([TaskState.SUBMITTED], now=at(10), before=at(75), min_gap=timedelta(seconds=5))

    assert count == 4
    assert {task.id: task.due_at for task in (await store.tasks()).items} == {
        "over": at(5),
        "claimed": at(10),
        "just asked": at(14),
        "asked in time to come": at(10),
        "soon": at(11),
        "far": at(400),
        "queued": at(60),
        "never": None,
    }


async def test_the_next_due_task_is_told(store: Store) -> None:
    states = [TaskState.QUEUED, TaskState.SUBMITTED]
    assert await store.next_task_due(states) is None

    await store.add(a_task(id="tsk_1", state=TaskState.QUEUED, due_at=at(9)), b"")
    await store.add(a_task(id="tsk_2", state=TaskState.SUBMITTED, due_at=at(5)), b"")
    await store.add(a_task(id="tsk_3", state=TaskState.PROCESSING, due_at=at(1)), b"")

    assert await store.next_task_due(states) == at(5)
    assert await store.next_task_due([TaskState.QUEUED]) == at(9)
    assert await store.next_task_due(states, after=at(5)) == at(9)
    assert await store.next_task_due(states, after=at(9)) is None
    assert await store.next_task_due([]) is None


async def test_slots_are_counted_by_pack_over_running_tasks(store: Store) -> None:
    kinds = [
        ("image", 4, TaskState.SUBMITTED),
        ("image", 1, TaskState.SUBMITTING),
        ("video", 1, TaskState.PROCESSING),
        ("video", 1, TaskState.SUCCEED),
        ("image", 1, TaskState.QUEUED),
        (None, 1, TaskState.SUBMITTED),
    ]
    for n, (pack, weight, state) in enumerate(kinds):
        await store.add(a_task(id=f"tsk_{n}", pack=pack, weight=weight, state=state), b"")

    assert await store.slots_in_use() == {"image": 5, "video": 1}
    assert await store.slots_in_use(confirmed_only=True) == {"image": 4, "video": 1}


async def test_of_pushes_that_changed_nothing_the_newest_are_kept_and_what_did_or_may_yet_is_never_forgotten(
    store: Store,
) -> None:
    await store.add(a_task(), b"")
    await store.add(a_task(id="tsk_2"), b"")
    settled = a_push("psh_00", outcome=PushOutcome.APPLIED)
    await store.apply(FIRST, decide_always(Change(push=settled)))
    await store.apply(ById(id="tsk_2"), decide_always(Change(push=a_push("psh_other", task_id="tsk_2"))))
    await store.apply(FIRST, decide_always(Change(push=a_push("psh_01"))))

    for number in range(2, 9):
        stale = a_push(f"psh_{number:02}", outcome=PushOutcome.STALE)
        await store.apply(FIRST, decide_always(Change(push=stale, keep_redundant=3)))

    kept = [push.id for push in await store.pushes("tsk_1")]
    assert kept == ["psh_00", "psh_01", "psh_06", "psh_07", "psh_08"]  # the second waits for confirmation
    assert [push.id for push in await store.pushes("tsk_2")] == ["psh_other"]
