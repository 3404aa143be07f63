"""The clock is set a day on or a day back at the worst moment: while a request is under way.

The long runs with a clock that jumps are in test_simulation.
"""

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest
from support import until
from workshop import FakeKling, IdleClock, a_workshop

from receiver.kling.client import Answer

DAY = timedelta(days=1)


class SlowKling(FakeKling):
    """Makes a task only when the gate opens, and knows nothing of it before."""

    def __init__(self, clock: IdleClock) -> None:
        super().__init__(clock)
        self.calls = 0
        self.gate = asyncio.Event()
        self.holds = asyncio.Event()
        self.holds.set()

    async def create(self, endpoint: str, content: bytes) -> Answer:
        self.calls += 1
        await self.gate.wait()
        return await super().create(endpoint, content)


@pytest.mark.parametrize("jump", [DAY, -DAY], ids=["on", "back"])
async def test_a_create_that_is_under_way_is_not_made_again(tmp_path: Path, jump: timedelta) -> None:
    clock = IdleClock()
    kling = SlowKling(clock)
    async with a_workshop(tmp_path, kling=kling, clock=clock) as shop, shop.working():
        submitting = asyncio.ensure_future(shop.submit())
        await until(lambda: kling.calls == 1)

        clock.advance(jump)
        shop.bells.ring()  # as by any other task
        await shop.settles()
        await shop.passes(120, step=10)
        kling.gate.set()
        task = await submitting
        await shop.passes(120, step=10)

        assert kling.calls == len(kling.made) == 1
        assert (await shop.task(task.id)).kling_id in kling.made
