"""Tasks of the new generation share questions, twenty to one, and none pays for the company it is in."""

import json
from collections import Counter
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from harness.factories import a_task
from harness.fake_kling import refusal
from harness.stalled_tasks import FAST_POLLING, UNREACHABLE, a_task_system_with_simulator, add_stalled_tasks
from harness.task_system import TaskSystem, a_task_system
from harness.waiting import wait_until

from receiver.domain.model import TaskState
from receiver.kling.client import MAX_BATCH
from receiver.tasks.poll_schedule import MIN_POLL_GAP
from receiver.tracking.poller import MAX_CONCURRENT, MAX_POLLS_PER_SECOND

NEW = ("text-to-video/kling-3.0-turbo", "image-to-video/kling-4.0")
JOB = {"endpoint": NEW[0], "body": {"prompt": "a cat"}}
A_JOB = (
    b'{"contents": [{"type": "prompt", "text": "a cat"}, {"type": "first_frame", "url": "https://a.example/a.png"}]}'
)


async def add_new_api_tasks(system: TaskSystem, count: int) -> None:
    for number in range(count):
        await add_stalled_tasks(system, 1, start=number, endpoint=NEW[number % 2], slot_key="video")


def batch_sizes(system: TaskSystem) -> Counter[int]:
    return Counter(len(batch) for batch in system.kling.query_batches)


async def test_two_hundred_due_tasks_are_polled_in_ten_batches(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system:
        await add_new_api_tasks(system, 200)
        for kling_task in system.kling.tasks.values():
            system.kling.finish_task(kling_task)

        async with system.running():
            await system.settle()

        assert batch_sizes(system) == {MAX_BATCH: 10}
        assert Counter(await system.event_types()) == {"task.succeed": 200}


async def test_due_tasks_of_older_endpoints_are_polled_one_by_one(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system:
        await add_stalled_tasks(system, 200)

        async with system.running():
            await system.advance(5, step=0.5)

        assert batch_sizes(system) == {1: 200}


async def test_a_batch_counts_as_one_poll_within_the_limits(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system:
        await add_new_api_tasks(system, 1500)
        await add_stalled_tasks(system, 100, start=1500)

        async with system.running():
            await system.settle()
            assert len(system.kling.query_batches) == MAX_POLLS_PER_SECOND
            await system.advance(5, step=0.5)

        assert batch_sizes(system)[1] >= 100
        assert sum(batch_sizes(system).values()) <= 100 + 1500 // MAX_BATCH + MAX_CONCURRENT * 15
        assert Counter(kling_id for kling_id, _ in system.kling.queries) == {f"k{number}": 1 for number in range(1600)}
        assert system.kling.max_in_flight <= MAX_CONCURRENT


async def test_a_task_omitted_from_a_batch_is_polled_alone_from_then_on(tmp_path: Path) -> None:
    async with a_task_system(tmp_path, poll=FAST_POLLING) as system:
        await add_new_api_tasks(system, 20)
        system.kling.hidden_ids = {"k3"}
        del system.kling.tasks["k7"]

        async with system.running():
            await system.settle()
            assert system.kling.query_batches[1:] in ([["k3"], ["k7"]], [["k7"], ["k3"]])
            assert {(await system.task(f"k{number}")).polling.count for number in range(20) if number != 7} == {1}
            await system.advance(60)

        assert ["k3"] in system.kling.query_batches[3:]
        assert ["k7"] in system.kling.query_batches[3:]
        assert not [batch for batch in system.kling.query_batches[1:] if len(batch) > 1 and {"k3", "k7"} & set(batch)]


@pytest.mark.parametrize("fault", [refusal(400, 1201), refusal(404, None)], ids=["one bad id", "no such method"])
async def test_tasks_of_a_refused_batch_are_polled_alone(tmp_path: Path, fault: Exception) -> None:
    async with a_task_system(tmp_path, poll=FAST_POLLING) as system:
        await add_new_api_tasks(system, 60)
        for kling_task in system.kling.tasks.values():
            system.kling.finish_task(kling_task)
        bad = system.kling.tasks["k5"]
        system.kling.query_fault = lambda kling_id: fault if kling_id == bad.id else None

        async with system.running():
            await system.advance(3)

        assert batch_sizes(system) == {MAX_BATCH: 3, 1: 20}
        assert Counter(await system.event_types()) == {"task.succeed": 59}


async def test_a_task_that_fails_its_batch_delays_it_once_for_a_second(tmp_path: Path) -> None:
    async with a_task_system(tmp_path, poll=FAST_POLLING) as system:
        await add_new_api_tasks(system, 20)
        system.kling.query_fault = lambda ids: refusal(500, 5000) if ids == "k0" else None

        async with system.running():
            await system.advance(2)
            alone = Counter(ids[0] for ids in system.kling.query_batches if len(ids) == 1)
            assert set(alone) == {f"k{number}" for number in range(20)}
            await system.advance(100)

        assert not [ids for ids in system.kling.query_batches[1:] if len(ids) > 1 and "k0" in ids]
        assert max(map(len, system.kling.query_batches[1:])) >= 18


async def test_a_probe_polls_one_task_and_batches_return_after_recovery(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system:
        await add_new_api_tasks(system, 400)
        system.kling.query_fault = UNREACHABLE
        async with system.running():
            await system.advance(3500, step=20)
            assert sum(size > 1 for size in map(len, system.kling.query_batches)) <= MAX_CONCURRENT
            assert sum(batch_sizes(system).values()) <= 3600 / 20 + 20

            system.kling.query_fault = None
            system.kling.query_batches.clear()
            for kling_task in system.kling.tasks.values():
                system.kling.finish_task(kling_task)
            await system.advance(60)

        assert sum(batch_sizes(system).values()) <= 400 / MAX_BATCH + 5
        assert Counter(await system.event_types()) == {"task.succeed": 400}


async def test_a_pending_push_does_not_wait_for_a_batch(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        task = await system.submit(**JOB)
        for _ in range(5):
            await system.submit(**JOB)
        kling_task = system.kling.tasks["k1"]
        await system.advance(6)

        await system.push(kling_task.token, system.kling.finish_task(kling_task))
        await system.settle()

        assert [kling_id for kling_id, _ in system.kling.queries] == ["k1"]
        assert (await system.task(task.id)).state is TaskState.SUCCEED


async def test_forged_pushes_for_many_tasks_cost_few_polls(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        for _ in range(10):
            await system.submit(**JOB)
        for kling_task in system.kling.tasks.values():
            kling_task.status = "processing"
        for _ in range(40):
            for kling_task in system.kling.tasks.values():
                await system.push(kling_task.token, kling_task.status_body(task_status="succeed"))
            await system.advance(1)

        for kling_id in system.kling.tasks:
            moments = [moment for id_, moment in system.kling.queries if id_ == kling_id]
            assert len(moments) > 5
            assert all(later - earlier >= MIN_POLL_GAP for earlier, later in pairwise(moments))
        assert "task.succeed" not in await system.event_types()


async def test_a_task_whose_id_contains_a_separator_is_polled_alone(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system:
        await add_new_api_tasks(system, 3)
        for odd in ("a,b", "x" * 65):
            kling_task = system.kling.tasks["k0"]
            system.kling.tasks[odd] = kling_task
            await system.store.tasks.add(
                a_task(id=f"tsk_{odd}", endpoint=NEW[0], kling_id=odd, due_at=system.clock.now()), b"{}"
            )

        async with system.running():
            await system.settle()

        assert sorted(map(len, system.kling.query_batches)) == [1, 1, 3]


@pytest.mark.parametrize("unknown", [0, 3])
async def test_two_hundred_due_tasks_are_ten_http_requests(tmp_path: Path, unknown: int) -> None:
    async with a_task_system_with_simulator(tmp_path, submitted_for="0s", processing_for="0s") as (system, simulator):
        soon = system.clock.now() + timedelta(seconds=10)
        for number in range(200):
            endpoint, name = NEW[number % 2], f"tsk_{number:03}"
            answer = await system.kling.create(endpoint, A_JOB)
            assert answer.report is not None, answer.error
            kling_id = f"forgotten{number}" if number < unknown else answer.report.kling_id
            given = {"id": name, "external_task_id": name, "kling_id": kling_id, "endpoint": endpoint, "due_at": soon}
            await system.store.tasks.add(a_task(**given), b"{}")
        await wait_until(lambda: {task["status"] for task in simulator.state()["tasks"]} == {"succeed"})
        system.notifiers.polls.notify()
        await system.settle()

        await system.advance(10, step=10)

        assert 0 <= simulator.state()["counts"]["queries"] - (200 / MAX_BATCH + 2 * unknown) <= unknown
        assert Counter(await system.event_types()) == {"task.succeed": 200 - unknown}
        [push] = await system.store.catalog.pushes("tsk_199")
        assert json.loads(push.body)["id"] == (await system.task("tsk_199")).kling_id
