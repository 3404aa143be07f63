"""The time limit of one HTTP request ends the block in time, and nothing else."""

import asyncio

import pytest

from receiver.net.deadline import Deadline


async def wait(seconds: float) -> None:
    """Wait for ever within a deadline."""
    with Deadline(seconds):
        await asyncio.Event().wait()


async def test_a_block_that_takes_too_long_times_out() -> None:
    with pytest.raises(TimeoutError):
        await wait(0.01)

    task = asyncio.current_task()
    assert task is not None
    assert not task.cancelling()


async def test_a_block_in_time_is_not_disturbed_later() -> None:
    with Deadline(0.01):
        pass

    await asyncio.sleep(0.03)


async def test_an_error_of_the_block_is_not_replaced() -> None:
    with pytest.raises(ValueError, match="its own"), Deadline(60):
        raise ValueError("its own")


async def test_a_cancellation_by_others_is_not_a_timeout() -> None:
    task = asyncio.create_task(wait(60))
    await asyncio.sleep(0)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_cancellation_by_others_wins_over_a_timeout_of_the_same_moment() -> None:
    async def wait_and_be_cancelled() -> None:
        with Deadline(0.01):
            try:
                await asyncio.Event().wait()
            finally:
                task.cancel()

    task = asyncio.create_task(wait_and_be_cancelled())

    with pytest.raises(asyncio.CancelledError):
        await task


async def test_of_two_deadlines_only_the_one_that_is_over_times_out() -> None:
    async def wait_in_two() -> None:
        with Deadline(0.01):
            try:
                await wait(60)
            except TimeoutError:
                pytest.fail("the inner deadline was not over")

    with pytest.raises(TimeoutError):
        await wait_in_two()


async def test_an_extended_block_has_more_time() -> None:
    with Deadline(0.02) as deadline:
        deadline.extend(60)
        await asyncio.sleep(0.05)
