"""Costs come only from accepted reports: once per task, with its end."""

from pathlib import Path

from harness.task_system import TaskSystem, a_task_system

from receiver.settings import CallbackSettings, Verify

TRUSTED_CALLBACKS = CallbackSettings(verify=Verify.NEVER)


async def cost(system: TaskSystem, task_id: str) -> dict[str, str] | None:
    found = await system.store.costs.find(task_id)
    return None if found is None else {unit: str(amount) for unit, amount in found.charges.items()}


async def test_the_cost_in_an_accepted_final_callback_is_stored(tmp_path: Path) -> None:
    async with a_task_system(tmp_path, callbacks=TRUSTED_CALLBACKS) as system:
        task = await system.submit()
        kling_task = system.kling.tasks["k1"]
        await system.push(kling_task.token, kling_task.status_body(task_status="processing", final_unit_deduction="9"))
        assert await cost(system, task.id) is None, "it has not ended"

        kling_task.cost = {"final_unit_deduction": "1.50"}
        await system.push(kling_task.token, system.kling.finish_task(kling_task))
        await system.push(kling_task.token, kling_task.status_body(final_unit_deduction="700"))

        assert await cost(system, task.id) == {"units": "1.50"}


async def test_a_failed_task_may_have_a_cost(tmp_path: Path) -> None:
    async with a_task_system(tmp_path, callbacks=TRUSTED_CALLBACKS) as system:
        tasks = [await system.submit() for _ in range(2)]
        system.kling.tasks["k1"].cost = {"final_unit_deduction": "0.5"}
        for kling_task in system.kling.tasks.values():
            await system.push(kling_task.token, system.kling.finish_task(kling_task, "failed"))

        assert [await cost(system, task.id) for task in tasks] == [{"units": "0.5"}, None]


async def test_the_cost_comes_from_the_api_and_not_from_an_unsigned_push(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        task = await system.submit()
        kling_task = system.kling.tasks["k1"]
        kling_task.cost = {"final_unit_deduction": "2"}
        system.kling.finish_task(kling_task)
        forged = kling_task.status_body(final_unit_deduction="7000", final_balance_deduction={"quota": "7000"})

        await system.push(kling_task.token, forged)
        await system.settle()
        await system.advance(5)

        assert await system.push_outcomes(task.id) == ["applied", "duplicate"]
        assert await cost(system, task.id) == {"units": "2"}


async def test_an_unverified_push_to_a_minted_url_has_no_cost(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system:
        task, url = await system.submitter.create_callback_url(endpoint=None)
        body = b'{"task_id": "k9", "task_status": "failed", "final_unit_deduction": "5"}'
        await system.push(url.rpartition("/")[2], body)

        assert (await system.task(task.id)).state == "failed"
        assert await cost(system, task.id) is None


async def test_a_later_answer_with_more_units_completes_the_cost(tmp_path: Path) -> None:
    async with a_task_system(tmp_path) as system, system.running():
        task = await system.submit()
        kling_task = system.kling.tasks["k1"]
        kling_task.cost = {"final_unit_deduction": "2"}
        system.kling.finish_task(kling_task)
        await system.advance(60)
        assert await cost(system, task.id) == {"units": "2"}

        kling_task.cost = {"final_unit_deduction": "2", "final_balance_deduction": {"quota": "0.1"}}
        await system.push(kling_task.token, kling_task.status_body(task_status="failed"))
        await system.settle()
        await system.advance(10)

        assert (await system.task(task.id)).state == "succeed"
        assert await cost(system, task.id) == {"units": "2", "quota": "0.1"}


async def test_an_answer_with_another_end_changes_no_cost(tmp_path: Path) -> None:
    async with a_task_system(tmp_path, callbacks=TRUSTED_CALLBACKS) as system, system.running():
        task = await system.submit()
        kling_task = system.kling.tasks["k1"]
        kling_task.cost = {"final_unit_deduction": "2"}
        await system.push(kling_task.token, system.kling.finish_task(kling_task))
        kling_task.status, kling_task.cost = "failed", {"final_unit_deduction": "2", "billing": [{"amount": "700"}]}
        await system.push(kling_task.token, kling_task.status_body())
        await system.settle()
        await system.advance(10)

        assert len(system.kling.queries) > 0, "the contradiction was polled"
        assert await cost(system, task.id) == {"units": "2"}
