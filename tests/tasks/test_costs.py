"""Only what was accepted counts as cost: once per task, with its end."""

from pathlib import Path

from harness.task_system import Workshop, a_workshop

from receiver.settings import CallbackSettings, Verify

BELIEVED = CallbackSettings(verify=Verify.NEVER)


async def cost(shop: Workshop, task_id: str) -> dict[str, str] | None:
    found = await shop.store.costs.find(task_id)
    return None if found is None else {unit: str(amount) for unit, amount in found.charges.items()}


async def test_what_an_accepted_callback_says_is_kept_with_the_end(tmp_path: Path) -> None:
    async with a_workshop(tmp_path, callbacks=BELIEVED) as shop:
        task = await shop.submit()
        made = shop.kling.made["k1"]
        await shop.push(made.token, made.told(task_status="processing", final_unit_deduction="9"))
        assert await cost(shop, task.id) is None, "it has not ended"

        made.cost = {"final_unit_deduction": "1.50"}
        await shop.push(made.token, shop.kling.end(made))
        await shop.push(made.token, made.told(final_unit_deduction="700"))

        assert await cost(shop, task.id) == {"units": "1.50"}


async def test_a_task_that_failed_may_have_cost_something_too(tmp_path: Path) -> None:
    async with a_workshop(tmp_path, callbacks=BELIEVED) as shop:
        tasks = [await shop.submit() for _ in range(2)]
        shop.kling.made["k1"].cost = {"final_unit_deduction": "0.5"}
        for made in shop.kling.made.values():
            await shop.push(made.token, shop.kling.end(made, "failed"))

        assert [await cost(shop, task.id) for task in tasks] == [{"units": "0.5"}, None]


async def test_an_unsigned_push_is_not_believed_on_cost_either_but_the_api_is(tmp_path: Path) -> None:
    async with a_workshop(tmp_path) as shop, shop.working():
        task = await shop.submit()
        made = shop.kling.made["k1"]
        made.cost = {"final_unit_deduction": "2"}
        shop.kling.end(made)
        forged = made.told(final_unit_deduction="7000", final_balance_deduction={"quota": "7000"})

        await shop.push(made.token, forged)
        await shop.settles()
        await shop.passes(5)

        assert await shop.outcomes_of(task.id) == ["settled", "duplicate"]
        assert await cost(shop, task.id) == {"units": "2"}


async def test_a_minted_url_that_nobody_vouches_for_costs_nothing(tmp_path: Path) -> None:
    async with a_workshop(tmp_path) as shop:
        task, url = await shop.submitter.mint(endpoint=None)
        body = b'{"task_id": "k9", "task_status": "failed", "final_unit_deduction": "5"}'
        await shop.push(url.rpartition("/")[2], body)

        assert (await shop.task(task.id)).state == "failed"
        assert await cost(shop, task.id) is None


async def test_what_is_found_by_polling_alone_is_kept_too_and_the_fuller_word_stands(tmp_path: Path) -> None:
    async with a_workshop(tmp_path) as shop, shop.working():
        task = await shop.submit()
        made = shop.kling.made["k1"]
        made.cost = {"final_unit_deduction": "2"}
        shop.kling.end(made)
        await shop.passes(60)
        assert await cost(shop, task.id) == {"units": "2"}

        made.cost = {"final_unit_deduction": "2", "final_balance_deduction": {"quota": "0.1"}}
        await shop.push(made.token, made.told(task_status="failed"))
        await shop.settles()
        await shop.passes(10)

        assert (await shop.task(task.id)).state == "succeed"
        assert await cost(shop, task.id) == {"units": "2", "quota": "0.1"}


async def test_an_answer_about_another_end_changes_no_cost(tmp_path: Path) -> None:
    async with a_workshop(tmp_path, callbacks=BELIEVED) as shop, shop.working():
        task = await shop.submit()
        made = shop.kling.made["k1"]
        made.cost = {"final_unit_deduction": "2"}
        await shop.push(made.token, shop.kling.end(made))
        made.status, made.cost = "failed", {"final_unit_deduction": "2", "billing": [{"amount": "700"}]}
        await shop.push(made.token, made.told())
        await shop.settles()
        await shop.passes(10)

        assert len(shop.kling.queries) > 0, "the contradiction was asked about"
        assert await cost(shop, task.id) == {"units": "2"}
