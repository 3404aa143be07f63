"""Callers that wait at the same moment share a call that began after theirs."""

import asyncio

from receiver.domain.coalesced_call import CoalescedCall


class Counted:
    """A call that waits for its gate and returns how often it began."""

    def __init__(self) -> None:
        self.begun = 0
        self.gate = asyncio.Event()

    async def __call__(self) -> int:
        self.begun += 1
        number = self.begun
        await self.gate.wait()
        return number


async def test_callers_during_a_run_share_the_next_run() -> None:
    counted = Counted()
    shared = CoalescedCall(counted)
    first = asyncio.create_task(shared())
    await asyncio.sleep(0)

    others = [asyncio.create_task(shared()) for _ in range(5)]
    await asyncio.sleep(0)
    counted.gate.set()

    assert await first == 1
    assert await asyncio.gather(*others) == [2] * 5
    assert counted.begun == 2


async def test_a_later_caller_gets_a_run_of_its_own() -> None:
    counted = Counted()
    counted.gate.set()
    shared = CoalescedCall(counted)

    assert [await shared() for _ in range(3)] == [1, 2, 3]


async def test_a_run_that_raises_serves_only_its_own_caller() -> None:
    outcomes: list[Exception | int] = [OSError(), 2]

    async def call() -> int:
        await asyncio.sleep(0)
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    shared = CoalescedCall(call)

    failed, *others = await asyncio.gather(*(shared() for _ in range(3)), return_exceptions=True)

    assert isinstance(failed, OSError)
    assert others == [2, 2]


async def test_a_run_whose_caller_is_cancelled_is_repeated_for_the_others() -> None:
    counted = Counted()
    shared = CoalescedCall(counted)
    first, second, third = [asyncio.create_task(shared()) for _ in range(3)]
    await asyncio.sleep(0)

    first.cancel()
    counted.gate.set()

    assert list(await asyncio.gather(second, third)) == [2, 2]
    assert first.cancelled()
