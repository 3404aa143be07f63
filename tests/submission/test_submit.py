"""A task is sent once, in its turn, and not into a wall: slots, limits, and an account in trouble."""

import asyncio
import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from harness.factories import a_task
from harness.fake_kling import FakeKling, no_response, refusal
from harness.task_system import JOB, IdleClock, TaskSystem, a_task_system
from harness.waiting import wait_until

from receiver.domain.errors import InvalidRequest, KlingError, KlingUncertain, KlingUnreachable
from receiver.domain.model import Origin, StatusReport, TaskState
from receiver.kling import endpoints
from receiver.kling.client import KlingResponse
from receiver.kling.endpoints import Endpoint
from receiver.kling.pass_through import NO_PASS_THROUGH, PassThrough
from receiver.settings import KlingSettings, SlotSettings
from receiver.submission import submit_queue
from receiver.submission.request import SubmitRequest


def endpoint_of(path: str) -> Endpoint:
    found = endpoints.resolve(path)
    assert found is not None
    return found


IMAGES = endpoint_of("images/multi-image2image")


async def test_the_intent_is_stored_before_kling_is_called(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system:
        system.kling.create_gate = asyncio.Event()
        sending = asyncio.create_task(system.submit())
        await wait_until(lambda: system.kling.create_ids != [])

        (task,) = (await system.store.catalog.tasks()).items

        assert task.state is TaskState.SUBMITTING
        assert task.token_hash is not None
        assert json.loads(await system.store.tasks.intent(task.id)) == JOB
        system.kling.create_gate.set()
        await sending


async def test_a_submit_continues_after_its_caller_is_cancelled(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system:
        system.kling.create_gate = asyncio.Event()
        asking = asyncio.create_task(system.gateway_creates.submit_now(IMAGES, json.dumps(JOB).encode()))
        await wait_until(lambda: system.kling.create_ids != [])

        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        system.kling.create_gate.set()
        await system.submitter.drain()

        (task,) = (await system.store.catalog.tasks()).items
        assert (task.state, task.kling_id) == (TaskState.SUBMITTED, "k1")


async def test_the_oldest_task_of_a_pack_is_sent_first(tmp_path: Path) -> None:
    settings = KlingSettings(slots=SlotSettings(image=3))
    async with a_task_system(tmp_path, kling_settings=settings) as system, system.running():
        first = await system.submit(body=JOB | {"n": 2})
        large = await system.submit(body=JOB | {"n": 3})
        small = await system.submit(body=JOB | {"n": 1})
        other_pack = await system.submit(endpoint="videos/text2video", body={"prompt": "a cat"})

        assert [task.state for task in (first, large, small)] == ["submitted", "queued", "queued"]
        assert small.message == "waits for a slot"
        assert other_pack.state is TaskState.SUBMITTED
        await system.advance(10)
        assert len(system.kling.create_ids) == 2

        await system.push(system.kling.tasks["k1"].token, system.kling.finish_task(system.kling.tasks["k1"]))
        await system.advance(6)

        assert (await system.task(large.id)).state is TaskState.SUBMITTED
        assert (await system.task(small.id)).state is TaskState.QUEUED


async def test_an_expired_task_frees_its_slot(tmp_path: Path) -> None:
    settings = KlingSettings(slots=SlotSettings(image=1))
    async with a_task_system(tmp_path, kling_settings=settings) as system, system.running():
        first, second = await system.submit(), await system.submit()

        await system.advance(48 * 3600 + 301, step=900)

        assert (await system.task(first.id)).state is TaskState.EXPIRED
        assert (await system.task(second.id)).state is TaskState.SUBMITTED


async def test_a_full_pack_does_not_block_other_packs(tmp_path: Path) -> None:
    settings = KlingSettings(slots=SlotSettings(image=1))
    async with a_task_system(tmp_path, kling_settings=settings) as system, system.running():
        for _ in range(40):
            await system.submit()
        system.kling.create_faults = [refusal(429, 1302)]
        video = await system.submit(endpoint="videos/text2video", body={"prompt": "a cat"})
        assert video.state is TaskState.QUEUED

        await system.advance(5)

        assert (await system.task(video.id)).state is TaskState.SUBMITTED
        assert len(system.kling.tasks) == 2


async def test_a_1303_lowers_the_learned_limit(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        system.kling.slot_limit = 2
        tasks = [await system.submit() for _ in range(8)]
        await system.settle()
        assert [task.state for task in tasks[:2]] == ["submitted", "submitted"]
        assert len(system.kling.tasks) == 2

        for number in range(1, 9):
            kling_task = system.kling.tasks[f"k{number}"]
            await system.push(kling_task.token, system.kling.finish_task(kling_task))
            await system.advance(10)

        assert [(await system.task(task.id)).state for task in tasks] == ["succeed"] * 8
        assert [system.kling.tasks[f"k{n + 1}"].external_task_id for n in range(8)] == [task.id for task in tasks]
        refused = len(system.kling.create_ids) - 8
        assert refused <= 16


async def test_probes_back_off_while_other_programs_use_all_slots(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        system.kling.create_fault = refusal(429, 1303)
        for _ in range(5):
            await system.submit()

        await system.advance(600, step=5)
        assert len(system.kling.create_ids) <= 17

        system.kling.create_fault = None
        await system.advance(61)
        assert len(system.kling.tasks) == 5


@pytest.mark.parametrize(
    "error", [refusal(429, 1302), refusal(503, 5001), KlingUnreachable("Kling cannot be reached.")], ids=str
)
async def test_an_unavailable_kling_is_probed_by_one_task_at_a_time(tmp_path: Path, error: KlingError) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        system.kling.create_fault = error
        tasks = [await system.submit() for _ in range(50)]
        assert {task.state for task in tasks} == {TaskState.QUEUED}
        assert all(task.message for task in tasks)

        await system.advance(300, step=5)
        tried = len(system.kling.create_ids)
        system.kling.create_fault = None
        await system.advance(125, step=5)

        assert tried <= 12
        assert len(system.kling.tasks) == 50
        assert len(system.kling.create_ids) == tried + 50


async def test_a_task_that_always_fails_does_not_block_other_tasks(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        system.kling.create_fault = refusal(503, 5001)
        bad = await system.submit()

        class Picky(list[KlingError | None]):
            """Refuses one task and no other."""

            def __bool__(self) -> bool:
                return True

            def pop(self, _: object = 0) -> KlingError | None:
                return refusal(503, 5001) if system.kling.create_ids[-1] == bad.id else None

        system.kling.create_faults, system.kling.create_fault = Picky(), None
        others = [await system.submit() for _ in range(10)]
        await system.advance(60)

        assert {(await system.task(task.id)).state for task in others} == {TaskState.SUBMITTED}
        assert (await system.task(bad.id)).state is TaskState.QUEUED
        assert system.kling.create_ids.count(bad.id) <= 8


async def test_an_answer_without_an_id_causes_a_lookup(tmp_path: Path) -> None:
    clock = IdleClock()

    class Nameless(FakeKling):
        async def create(
            self, endpoint: str, content: bytes, *, pass_through: PassThrough = NO_PASS_THROUGH, **more: Any
        ) -> KlingResponse:
            return replace(
                await super().create(endpoint, content, pass_through=pass_through, **more),
                report=StatusReport(state=None),
            )

    async with a_task_system(tmp_path, kling=Nameless(clock), clock=clock) as system, system.running():
        task = await system.submit()
        assert task.state is TaskState.SUBMITTING

        await system.advance(2)

        assert (await system.task(task.id)).kling_id == "k1"
        assert len(system.kling.create_ids) == 1


async def test_a_lost_answer_gives_a_gateway_client_the_external_id(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system:
        system.kling.create_faults = [no_response()]

        with pytest.raises(KlingUncertain) as raised:
            await system.gateway_creates.submit_now(IMAGES, json.dumps(JOB | {"external_task_id": "mine"}).encode())

        assert raised.value.external_task_id == "mine"


async def test_an_unknown_endpoint_is_refused_and_nothing_is_stored(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system:
        with pytest.raises(InvalidRequest):
            await system.submit(endpoint="no/such/thing")

        assert (await system.store.catalog.tasks()).items == []


async def finish_task(system: TaskSystem, number: int) -> None:
    """Let the task that Kling made as so manieth end, and hear of it."""
    kling_task = system.kling.tasks[f"k{number}"]
    await system.push(kling_task.token, system.kling.finish_task(kling_task))
    await system.advance(1)


async def test_many_tasks_of_one_project_do_not_starve_another(tmp_path: Path) -> None:
    settings = KlingSettings(slots=SlotSettings(image=2), fair_by="project")
    async with a_task_system(tmp_path, kling_settings=settings) as system, system.running():
        many = [await system.submit(tags={"project": "many"}) for _ in range(20)]
        few = [await system.submit(tags={"project": "few"}) for _ in range(3)]
        untagged = await system.submit()

        for number in range(1, 8):
            await finish_task(system, number)

        sent = [kling_task.external_task_id for kling_task in system.kling.tasks.values()][2:8]
        assert set(sent) == {few[0].id, few[1].id, few[2].id, untagged.id, many[2].id, many[3].id}
        assert sent[:2] in ([few[0].id, untagged.id], [untagged.id, few[0].id])


async def test_tasks_are_sent_by_priority_and_then_by_age(tmp_path: Path) -> None:
    settings = KlingSettings(slots=SlotSettings(image=1))
    async with a_task_system(tmp_path, kling_settings=settings) as system, system.running():
        await system.submit()
        tasks = [await system.submit(priority=priority) for priority in (0, -1, 5, 0, 5)]

        for number in range(1, 6):
            await finish_task(system, number)

        sent = [kling_task.external_task_id for kling_task in system.kling.tasks.values()][1:]
        assert sent == [tasks[place].id for place in (2, 4, 0, 3, 1)]


async def test_small_tasks_of_other_shares_do_not_starve_a_large_task(tmp_path: Path) -> None:
    settings = KlingSettings(slots=SlotSettings(image=3), fair_by="project")
    async with a_task_system(tmp_path, kling_settings=settings) as system, system.running():
        for project in "abc":
            await system.submit(tags={"project": project})
        large = await system.submit(body=JOB | {"n": 3}, tags={"project": "large"})

        for number in range(1, 4):
            for project in "abcdef":
                await system.submit(tags={"project": f"{project}{number}"})
            await finish_task(system, number)

        assert (await system.task(large.id)).state is TaskState.SUBMITTED
        assert len(system.kling.tasks) == 4


async def test_a_task_larger_than_any_limit_does_not_block_others(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        system.kling.slot_limit = 1
        system.kling.counts_images = True
        huge = await system.submit(body=JOB | {"n": 9})
        small = [await system.submit() for _ in range(3)]

        for number in range(1, 4):
            await system.advance(5)
            await finish_task(system, number)

        assert (await system.task(huge.id)).state is TaskState.QUEUED
        assert [(await system.task(task.id)).state for task in small] == ["succeed"] * 3


@pytest.mark.parametrize("configured", [5, 0])
async def test_refused_large_tasks_do_not_keep_small_ones_from_free_slots(tmp_path: Path, configured: int) -> None:
    settings = KlingSettings(slots=SlotSettings(image=configured))
    async with a_task_system(tmp_path, kling_settings=settings) as system, system.running():
        system.kling.slot_limit, system.kling.counts_images = 3, True  # somebody else has the others
        large = [await system.submit(body=JOB | {"n": 4}) for _ in range(8)]
        small = [await system.submit() for _ in range(9)]

        for number in range(1, 10):
            await system.advance(1)
            assert len(system.kling.tasks) >= min(number + 2, 9), "none of the three is idle"
            await finish_task(system, number)

        assert [(await system.task(task.id)).state for task in small] == ["succeed"] * 9
        fits = await system.submit(body=JOB | {"n": 3})
        await system.advance(2)
        assert (await system.task(fits.id)).state is TaskState.SUBMITTED
        await finish_task(system, 10)

        system.kling.slot_limit = 5
        for number in range(11, 19):
            await system.advance(120)
            await finish_task(system, number)
        assert [(await system.task(task.id)).state for task in large] == ["succeed"] * 8


async def test_a_task_of_an_endpoint_no_longer_known_is_rejected(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system:
        old = a_task(
            state=TaskState.QUEUED,
            origin=Origin.API,
            endpoint="no/such/thing",
            kling_id=None,
            due_at=system.clock.now(),
        )
        await system.store.tasks.add(old, b"{}")

        new = await system.submit()

        assert new.state is TaskState.SUBMITTED
        assert (await system.task(old.id)).state is TaskState.REJECTED


async def test_without_wait_submit_returns_when_the_task_is_stored(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        system.kling.create_gate = asyncio.Event()

        task = (await system.submitter.submit(SubmitRequest(endpoint=IMAGES.path, body=JOB), wait=False)).task

        assert task.state is TaskState.QUEUED
        await wait_until(lambda: system.kling.create_ids == [task.id])


async def test_bytes_in_flight_are_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submit_queue, "MAX_BYTES_IN_FLIGHT", 2 * len(json.dumps(JOB)))
    async with a_task_system(tmp_path) as system, system.running():
        system.kling.create_gate = asyncio.Event()
        for _ in range(8):
            await system.submitter.submit(SubmitRequest(endpoint=IMAGES.path, body=JOB), wait=False)

        await wait_until(lambda: len(system.kling.create_ids) == 3)  # the third is what makes it enough
        await system.settle()
        assert len(system.kling.create_ids) == 3
        system.kling.create_gate.set()

        await wait_until(lambda: len(system.kling.tasks) == 8)
        assert len(set(system.kling.create_ids)) == 8


async def test_queued_tasks_are_grouped_by_the_current_fair_by_tag(tmp_path: Path) -> None:
    clock = IdleClock()
    kling = FakeKling(clock)
    for tag in ("", "project"):
        settings = KlingSettings(slots=SlotSettings(image=1), fair_by=tag)
        async with (
            a_task_system(tmp_path, kling=kling, clock=clock, kling_settings=settings) as system,
            system.running(),
        ):
            if not tag:
                for _ in range(5):
                    await system.submit(tags={"project": "many"})
                await system.submit(tags={"project": "few"})
            else:
                await finish_task(system, 1)
                await system.advance(6)  # the first question after a start may have been asked just before
                last = (await system.store.catalog.tasks()).items[0]
                assert (last.tags, last.state) == ({"project": "few"}, TaskState.SUBMITTED)


async def test_queued_tasks_are_sent_after_the_clock_is_set_back(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        system.kling.create_fault = refusal(503, 5001)
        waiting = [await system.submit() for _ in range(10)]
        await system.advance(300, step=10)
        system.kling.create_fault = None

        system.clock.advance(timedelta(days=-1))
        system.notifiers.tasks.notify()
        await system.advance(65, step=5)

        assert {(await system.task(task.id)).state for task in waiting} == {TaskState.SUBMITTED}
