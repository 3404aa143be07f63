"""Polling is the guarantee: without any callback every task still reaches its final state."""

import json
from pathlib import Path

from harness.running_service import (
    JOB,
    submit_task,
    wait_for_state,
)
from harness.waiting import wait_until
from harness.whole_service import a_whole_service

FAST_POLLING = '[poll]\nafter = "50ms"\nevery = "100ms"\n'


async def test_tasks_are_polled_without_a_public_url(tmp_path: Path) -> None:
    async with a_whole_service(tmp_path, more=FAST_POLLING, route='on = ["succeed", "failed"]', public_url="") as whole:
        sink, kling, _, client = whole
        good, bad = await submit_task(client), await submit_task(client, body=JOB | {"prompt": "[fail: no cats]"})

        assert (await wait_for_state(client, good["id"], "succeed"))["verified"] == "api"
        assert (await wait_for_state(client, bad["id"], "failed"))["message"] == "no cats"

        await wait_until(lambda: len(sink.bodies) == 2)
        by_status = {data["status"]: data for data in (json.loads(body)["data"] for body in sink.bodies)}
        assert {data["source"] for data in by_status.values()} == {"poll"}
        assert by_status["succeed"]["kling"]["task_id"] == by_status["succeed"]["task"]["kling_id"]
        assert "callback_url" not in json.dumps([create["body"] for create in kling.state()["creates"]])
        assert kling.state()["counts"]["callbacks"] == 0


async def test_polling_replaces_lost_callbacks(tmp_path: Path) -> None:
    async with a_whole_service(tmp_path, more=FAST_POLLING, drop="always") as (sink, kling, _, client):
        task = await submit_task(client)

        await wait_for_state(client, task["id"], "succeed")

        await wait_until(lambda: len(sink.bodies) == 1)
        assert kling.state()["counts"]["callbacks_dropped"] == 2


async def test_polling_continues_through_kling_errors_and_a_restart(tmp_path: Path) -> None:
    async with a_whole_service(tmp_path, more=FAST_POLLING, public_url="", processing_for="700ms") as whole:
        sink, kling, receiver, _ = whole
        async with receiver.client() as client:
            kling.configure({"refuse_queries": "502:2,5001:1,1302:1"})
            task = await submit_task(client)
            await wait_until(lambda: kling.state()["counts"]["queries"] >= 2)

        receiver.kill()
        await receiver.start()

        async with receiver.client() as client:
            await wait_for_state(client, task["id"], "succeed")
        await wait_until(lambda: len(sink.bodies) == 1)


async def test_an_endless_task_expires_and_a_late_end_still_counts(tmp_path: Path) -> None:
    soon = '[poll]\nafter = "50ms"\nevery = "50ms"\ngive_up_after = "500ms"\n'
    async with a_whole_service(tmp_path, more=soon, route='on = ["*"]', processing_for="1500ms") as whole:
        sink, _, _, client = whole
        task = await submit_task(client)

        await wait_for_state(client, task["id"], "expired")
        await wait_for_state(client, task["id"], "succeed")

        await wait_until(lambda: len(sink.bodies) == 3)
        assert sorted(sink.types) == ["task.expired", "task.processing", "task.succeed"]


async def test_a_stuck_task_raises_one_alert_and_its_late_end_counts(tmp_path: Path) -> None:
    soon = '[poll]\nafter = "50ms"\nevery = "50ms"\nstuck_after = "100ms"\ngive_up_after = "1500ms"\n'
    async with a_whole_service(tmp_path, more=soon, route='on = ["*"]', public_url="", processing_for="6s") as whole:
        sink, _, _, client = whole
        await submit_task(client)

        await wait_until(lambda: "task.succeed" in sink.types)

        ends = [kind for kind in sink.types if kind not in ("task.submitted", "task.processing")]
        assert sorted(ends) == ["alert.task_stuck", "task.expired", "task.succeed"]
