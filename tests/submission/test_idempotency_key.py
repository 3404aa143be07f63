"""An idempotency key belongs to one body; another body is noticed, unless the caller permits it."""

from pathlib import Path

import pytest
from harness.task_system import JOB, a_task_system

from receiver.domain.errors import KeyReused
from receiver.submission.request import SubmitRequest

OTHER = JOB | {"prompt": "a dog"}
ENDPOINT = "images/multi-image2image"


async def test_the_same_key_and_body_return_the_first_task(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        first = await system.submit(idempotency_key="order-17")
        reordered = dict(reversed(JOB.items()))

        again = await system.submitter.submit(
            SubmitRequest(endpoint=f"v1/{ENDPOINT}", body=reordered, idempotency_key="order-17")
        )

        assert (again.task.id, again.deduplicated) == (first.id, True)
        assert len(system.kling.create_ids) == 1


@pytest.mark.parametrize("other", [{"body": OTHER}, {"endpoint": "images/generations"}])
async def test_the_same_key_with_another_body_or_endpoint_is_a_conflict(
    tmp_path: Path, other: dict[str, object]
) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        first = await system.submit(idempotency_key="order-17")

        with pytest.raises(KeyReused, match=f"'order-17' belongs to task {first.id}") as conflict:
            await system.submit(idempotency_key="order-17", **other)

        assert "--reuse" in conflict.value.remedy
        assert len(system.kling.create_ids) == 1


async def test_with_reuse_another_body_returns_the_first_task(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        first = await system.submit(idempotency_key="order-17")

        again = await system.submit(idempotency_key="order-17", body=OTHER, reuse=True)

        assert again.id == first.id
        assert len(system.kling.create_ids) == 1
