"""Lists of results: which tasks they have."""

from harness.factories import a_task, an_event, at
from store.conftest import Store

from receiver.domain.clock import first_id
from receiver.domain.model import Origin, TaskState
from receiver.store.interfaces import ResultFilter


async def add_success(store: Store, number: int, origin: Origin) -> str:
    """Store a task that succeeded. Return its ID."""
    task_id = first_id("tsk", at(number))
    given = {"kling_id": str(number), "external_task_id": None, "tags": {"number": str(number)}}
    await store.tasks.add(
        a_task(id=task_id, origin=origin, state=TaskState.SUCCEED, due_at=None, **given),
        b"",
        events=[an_event(first_id("evt", at(number)), task_id=task_id)],
    )
    return task_id


async def test_test_tasks_are_left_out_of_the_results_on_request(store: Store) -> None:
    real = await add_success(store, 1, Origin.API)
    made_up = await add_success(store, 2, Origin.TEST)

    async def listed(wanted: ResultFilter) -> list[str]:
        return [each.task_id for each in (await store.results.list(wanted, limit=10)).items]

    assert await listed(ResultFilter()) == [made_up, real]
    assert await listed(ResultFilter(with_tests=False)) == [real]
    assert await listed(ResultFilter(with_tests=False, tags={"number": "2"})) == []
