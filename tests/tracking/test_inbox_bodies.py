"""Every body of the table, and what can be made of them, goes all the way: read, judged, stored, told of."""

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from chaos.parameters import number
from data.kling_bodies import CASES, spoilt, torn, written
from harness.soak_report import Tell
from harness.task_system import IdleClock, Workshop, a_workshop
from hypothesis import HealthCheck, given, settings

from receiver.domain.errors import Unreadable
from receiver.domain.model import TaskState
from receiver.kling import protocol

EXAMPLES = number("EXAMPLES", 100)


async def pushed(shop: Workshop, body: bytes) -> str:
    """Push a body to a URL of its own; give its task."""
    task, url = await shop.submitter.mint(endpoint=None)
    assert await shop.push(url.rpartition("/")[2], body)
    return task.id


@pytest.mark.parametrize("case", [each for each in CASES if "asked_for" not in each], ids=lambda case: case["rule"])
async def test_a_pushed_body_makes_of_its_task_what_the_table_says(tmp_path: Path, case: dict[str, Any]) -> None:
    async with a_workshop(tmp_path) as shop:
        task = await shop.task(await pushed(shop, written(case)))

        reading = protocol.read(written(case))
        said = None if reading.ambiguous else reading.state
        assert task.state is (said or (TaskState.SUBMITTED if reading.kling_id else task.state))
        assert task.kling_id == reading.kling_id
        events = (await shop.store.events(task_id=task.id)).items
        assert [event.type for event in events] == ([] if said is None else [f"task.{said}"])
        if events:
            data = json.loads(events[0].envelope)["data"]
            assert {kind: tuple(entries) for kind, entries in data["result"].items()} == reading.result


@pytest.mark.soak("odd bodies through the inbox", minutes=3)
def test_no_body_whatever_is_lost_or_does_any_harm(tmp_path: Path, tell: Tell) -> None:
    tell(bodies=EXAMPLES)
    with asyncio.Runner() as runner:
        opening = a_workshop(tmp_path, clock=IdleClock())
        shop = runner.run(opening.__aenter__())

        @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
        @given(spoilt().map(lambda body: json.dumps(body).encode()) | torn())
        def holds(body: bytes) -> None:
            try:
                protocol.parse_object(body)
            except Unreadable:
                with pytest.raises(Unreadable):
                    runner.run(pushed(shop, body))
                return
            task_id = runner.run(pushed(shop, body))
            (push,) = runner.run(_pushes(shop, task_id))
            assert push == body

        with contextlib.ExitStack() as stack:
            stack.callback(lambda: runner.run(opening.__aexit__(None, None, None)))
            holds()


async def _pushes(shop: Workshop, task_id: str) -> list[bytes | None]:
    return [push.body for push in await shop.store.pushes(task_id)]
