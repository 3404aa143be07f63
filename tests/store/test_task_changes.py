"""Changes of tasks: decided in order, written in one transaction."""

import asyncio
from collections.abc import Sequence
from hashlib import sha256

import pytest
from harness.factories import a_delivery, a_push, a_task, an_event, at
from msgspec.structs import replace
from store.conftest import Store, decide_always, record_arguments

from receiver.domain.errors import Conflict
from receiver.domain.model import Push, PushOutcome, Source, Task, TaskState
from receiver.store.interfaces import ApplyCall, ById, ByToken, Change, TaskRef

TOKEN = sha256(b"token").digest()
FIRST = ById(id="tsk_1")


async def test_an_unknown_task_calls_no_decide(store: Store) -> None:
    seen: list[tuple[Task, list[Push]]] = []

    assert await store.tasks.apply(ById(id="tsk_none"), record_arguments(seen)) is None
    assert await store.tasks.apply(ByToken(token_hash=TOKEN), record_arguments(seen)) is None
    assert seen == []


async def test_decide_gets_the_current_task(store: Store) -> None:
    task = a_task(token_hash=TOKEN)
    await store.tasks.add(task, b"")
    seen: list[tuple[Task, list[Push]]] = []

    await store.tasks.apply(ByToken(token_hash=TOKEN), record_arguments(seen))
    await store.tasks.apply(FIRST, record_arguments(seen))

    assert seen == [(task, []), (task, [])]


async def test_the_whole_change_is_written(store: Store) -> None:
    await store.tasks.add(a_task(), b"before")
    change = Change(
        task=a_task(state=TaskState.SUCCEED, message="done", due_at=None),
        push=a_push(
            body=b"\x00\xff", headers=(("a", "1"), ("a", "é")), outcome=PushOutcome.APPLIED, source=Source.POLL
        ),
        events=[an_event(push_id="psh_1", body=b"\x00\xff")],
        deliveries=[a_delivery()],
        intent=b"after",
    )

    given = await store.tasks.apply(FIRST, decide_always(change))

    assert given == change
    assert await store.catalog.task("tsk_1") == change.task
    assert await store.catalog.pushes("tsk_1") == [change.push]
    assert await store.catalog.event("evt_1") == change.events[0]
    delivery = await store.catalog.delivery("dlv_1")
    assert delivery is not None
    assert delivery.delivery == change.deliveries[0]
    assert await store.tasks.intent("tsk_1") == b"after"


async def test_an_earlier_push_gets_its_outcome(store: Store) -> None:
    await store.tasks.add(a_task(), b"")
    await store.tasks.apply(FIRST, decide_always(Change(push=a_push())))

    await store.tasks.apply(FIRST, decide_always(Change(resolved={"psh_1": PushOutcome.FORGED})))

    assert [push.outcome for push in await store.catalog.pushes("tsk_1")] == [PushOutcome.FORGED]


async def test_decide_gets_pending_pushes_on_request(store: Store) -> None:
    await store.tasks.add(a_task(), b"")
    await store.tasks.add(a_task(id="tsk_2"), b"")
    waiting, settled = a_push("psh_1"), a_push("psh_2", outcome=PushOutcome.STALE)
    await store.tasks.apply(FIRST, decide_always(Change(push=waiting)))
    await store.tasks.apply(FIRST, decide_always(Change(push=settled)))
    await store.tasks.apply(ById(id="tsk_2"), decide_always(Change(push=a_push("psh_3", task_id="tsk_2"))))
    seen: list[tuple[Task, list[Push]]] = []

    await store.tasks.apply(FIRST, record_arguments(seen), with_pending=True)
    await store.tasks.apply(FIRST, record_arguments(seen))

    assert [pending for _, pending in seen] == [[waiting], []]


async def test_decisions_on_one_task_run_in_sequence(store: Store) -> None:
    await store.tasks.add(a_task(token_hash=TOKEN), b"")

    def count(task: Task, pending: Sequence[Push]) -> Change:
        assert len(pending) == task.polling.count
        return Change(
            task=replace(task, polling=replace(task.polling, count=task.polling.count + 1)),
            push=a_push(f"psh_{task.polling.count:03}"),
        )

    refs: list[TaskRef] = [FIRST, ByToken(token_hash=TOKEN)] * 50
    await asyncio.gather(*(store.tasks.apply(ref, count, with_pending=True) for ref in refs))

    task = await store.catalog.task("tsk_1")
    assert task is not None
    assert task.polling.count == 100
    assert len(await store.catalog.pushes("tsk_1")) == 100


async def test_decide_sees_the_outcomes_of_the_previous_change(store: Store) -> None:
    await store.tasks.add(a_task(), b"")
    seen: list[tuple[Task, list[Push]]] = []
    changes = [Change(push=a_push("psh_1")), Change(push=a_push("psh_2"), resolved={"psh_1": PushOutcome.STALE})]

    await asyncio.gather(
        *(store.tasks.apply(FIRST, decide_always(change)) for change in changes),
        store.tasks.apply(FIRST, record_arguments(seen), with_pending=True),
    )

    assert [[push.id for push in pending] for _, pending in seen] == [["psh_2"]]
    assert [push.outcome for push in await store.catalog.pushes("tsk_1")] == [PushOutcome.STALE, PushOutcome.PENDING]


async def test_a_revoked_token_finds_nothing_at_once(store: Store) -> None:
    await store.tasks.add(a_task(token_hash=TOKEN), b"")
    new = sha256(b"new").digest()
    seen: list[tuple[Task, list[Push]]] = []

    _, old = await asyncio.gather(
        store.tasks.apply(FIRST, decide_always(Change(task=a_task(token_hash=new)))),
        store.tasks.apply(ByToken(token_hash=TOKEN), record_arguments(seen)),
    )

    assert old is None
    assert await store.tasks.apply(ByToken(token_hash=TOKEN), record_arguments(seen)) is None
    assert await store.tasks.apply(ByToken(token_hash=new), record_arguments(seen)) is not None


async def test_a_failing_decide_affects_only_its_caller(store: Store) -> None:
    await store.tasks.add(a_task(), b"")

    def refuse(task: Task, _pending: Sequence[Push]) -> Change:
        raise LookupError(task.id)

    good = [store.tasks.apply(FIRST, decide_always(Change(push=a_push(f"psh_{n}")))) for n in range(9)]
    results = await asyncio.gather(*good, store.tasks.apply(FIRST, refuse), return_exceptions=True)

    assert [type(result) for result in results] == [*[Change] * 9, LookupError]
    assert len(await store.catalog.pushes("tsk_1")) == 9


async def test_calls_made_together_get_each_their_own_result_or_error(store: Store) -> None:
    for number in (1, 2, 3):
        await store.tasks.add(a_task(id=f"tsk_{number}", token_hash=bytes([number]) * 32), b"")
    change = Change(task=a_task(message="changed", token_hash=bytes([1]) * 32))
    taken = Change(task=a_task(id="tsk_3", token_hash=bytes([2]) * 32))  # the token of another task

    def fail(*_: object) -> Change:
        raise KeyError("a bug")

    calls = [
        ApplyCall(ref=FIRST, decide=decide_always(change)),
        ApplyCall(ref=ById(id="tsk_none"), decide=fail),
        ApplyCall(ref=ById(id="tsk_2"), decide=fail),
        ApplyCall(ref=ById(id="tsk_3"), decide=decide_always(taken)),
    ]
    written, missing, failed, refused = await store.tasks.apply_all(calls)

    assert (written, missing) == (change, None)
    assert isinstance(failed, KeyError)
    assert isinstance(refused, Conflict)
    assert await store.catalog.task("tsk_1") == change.task


async def test_decide_cannot_change_another_task(store: Store) -> None:
    await store.tasks.add(a_task(), b"")
    await store.tasks.add(a_task(id="tsk_2"), b"")

    with pytest.raises(ValueError, match="tsk_2"):
        await store.tasks.apply(FIRST, decide_always(Change(task=a_task(id="tsk_2"))))


async def test_a_refused_write_affects_only_its_caller(store: Store) -> None:
    await store.tasks.add(a_task(), b"")
    await store.tasks.apply(FIRST, decide_always(Change(push=a_push("psh_taken"))))

    good = [store.tasks.apply(FIRST, decide_always(Change(push=a_push(f"psh_{n}")))) for n in range(9)]
    twice = store.tasks.apply(FIRST, decide_always(Change(task=a_task(message="never"), push=a_push("psh_taken"))))
    results = await asyncio.gather(*good, twice, return_exceptions=True)

    assert [type(result) for result in results] == [*[Change] * 9, Conflict]
    assert len(await store.catalog.pushes("tsk_1")) == 10
    task = await store.catalog.task("tsk_1")
    assert task is not None
    assert task.message == ""


@pytest.mark.parametrize("end", [TaskState.SUCCEED, TaskState.FAILED])
@pytest.mark.parametrize("after", [TaskState.PROCESSING, TaskState.EXPIRED, TaskState.SUCCEED, TaskState.FAILED])
async def test_a_task_never_leaves_succeed_or_failed(store: Store, end: TaskState, after: TaskState) -> None:
    await store.tasks.add(a_task(state=end), b"")

    if after is end:
        await store.tasks.apply(FIRST, decide_always(Change(task=a_task(state=after))))
    else:
        with pytest.raises(Conflict):
            await store.tasks.apply(FIRST, decide_always(Change(task=a_task(state=after))))

    task = await store.catalog.task("tsk_1")
    assert task is not None
    assert task.state is end


async def test_a_task_has_one_terminal_event(store: Store) -> None:
    await store.tasks.add(a_task(), b"")
    await store.tasks.apply(FIRST, decide_always(Change(events=[an_event("evt_1", type="task.expired")])))
    await store.tasks.apply(FIRST, decide_always(Change(events=[an_event("evt_2", type="task.succeed")])))

    with pytest.raises(Conflict):
        await store.tasks.apply(FIRST, decide_always(Change(events=[an_event("evt_3", type="task.failed")])))


async def test_an_event_has_one_delivery_per_route_apart_from_replays(store: Store) -> None:
    await store.tasks.add(a_task(), b"")
    await store.tasks.apply(FIRST, decide_always(Change(events=[an_event()], deliveries=[a_delivery("dlv_1")])))

    again = [a_delivery("dlv_2"), a_delivery("dlv_3", route="other")]
    await store.tasks.add_events([], again)
    await store.tasks.add_events([], [a_delivery("dlv_4", replay_of="dlv_1"), a_delivery("dlv_5", replay_of="dlv_1")])

    listed = [view.delivery.id for view in (await store.catalog.deliveries()).items]
    assert listed == ["dlv_5", "dlv_4", "dlv_3", "dlv_1"]


async def test_an_alert_has_no_task(store: Store) -> None:
    alert = an_event(type="alert.route_held", task_id=None, body=b"")

    await store.tasks.add_events([alert], [a_delivery()])

    assert await store.catalog.event("evt_1") == alert
    [claimed] = await store.deliveries.claim("publish", now=at(1), until=at(60), limit=1, claim="c")
    assert (claimed.event, claimed.reply_to) == (alert, None)


async def test_only_redundant_pushes_are_limited(
    store: Store,
) -> None:
    await store.tasks.add(a_task(), b"")
    await store.tasks.add(a_task(id="tsk_2"), b"")
    settled = a_push("psh_00", outcome=PushOutcome.APPLIED)
    await store.tasks.apply(FIRST, decide_always(Change(push=settled)))
    await store.tasks.apply(ById(id="tsk_2"), decide_always(Change(push=a_push("psh_other", task_id="tsk_2"))))
    await store.tasks.apply(FIRST, decide_always(Change(push=a_push("psh_01"))))

    for number in range(2, 9):
        stale = a_push(f"psh_{number:02}", outcome=PushOutcome.STALE)
        await store.tasks.apply(FIRST, decide_always(Change(push=stale, keep_redundant=3)))

    kept = [push.id for push in await store.catalog.pushes("tsk_1")]
    assert kept == ["psh_00", "psh_01", "psh_06", "psh_07", "psh_08"]  # the second waits for confirmation
    assert [push.id for push in await store.catalog.pushes("tsk_2")] == ["psh_other"]
