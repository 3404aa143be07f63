"""`costs check` against a simulated account that other programs use too."""

import json
from pathlib import Path

import httpx2
import pytest
from harness.running_service import KEY, a_config, a_kling, a_receiver, submit_task, wait_for_state
from harness.waiting import wait_until

PATH = "/v1/images/multi-image2image"
FOREIGN = {"prompt": "x", "subject_image_list": [{"subject_image": "https://x.example/a.png"}]}


async def submit_elsewhere(kling: str) -> str:
    """Submit a job to Kling without the receiver; return Kling's id, once it has ended."""
    headers = {"authorization": f"Bearer {KEY}"}
    async with httpx2.AsyncClient(base_url=kling, headers=headers) as other:
        made = (await other.post(PATH, json=FOREIGN)).json()["data"]["task_id"]

        async def has_ended() -> bool:
            return bool((await other.get(f"{PATH}/{made}")).json()["data"]["task_status"] == "succeed")

        await wait_until(has_ended)
    return str(made)


@pytest.mark.parametrize("postpaid", [False, True], ids=["packs", "money"])
async def test_the_command_finds_what_another_program_was_billed(tmp_path: Path, *, postpaid: bool) -> None:
    async with a_kling(postpaid=postpaid) as kling, a_receiver(tmp_path, a_config(kling.url)) as receiver:
        async with receiver.client() as client:
            task = await submit_task(client)
            await wait_for_state(client, task["id"], "succeed")
        agreed = await receiver.run_cli_async("costs", "check", "--json")
        foreign = await submit_elsewhere(kling.url)

        differs = await receiver.run_cli_async("costs", "check", "--json")
        table = await receiver.run_cli_async("costs", "check")

        first, second = json.loads(agreed.stdout), json.loads(differs.stdout)
        assert (agreed.returncode, first["agrees"], first["matched"], first["unknown"]) == (0, True, 1, []), first
        assert (differs.returncode, second["agrees"], second["matched"]) == (1, False, 1), second
        assert [charge["kling_id"] for charge in second["unknown"]] == [foreign]
        assert second["billed"] == ({"usd": "0.28"} if postpaid else {"units": "2"})
        assert len(second["packs"]) == (0 if postpaid else 3)
        assert (table.returncode, foreign in table.stdout) == (1, True), table.stdout


async def test_a_gateway_without_ledgers_is_named_with_the_remedy(tmp_path: Path) -> None:
    async with a_kling() as kling, a_receiver(tmp_path, a_config(f"{kling.url}/nowhere")) as receiver:
        refused = await receiver.run_cli_async("costs", "check")

        assert refused.returncode == 1
        assert "has no ledgers" in refused.stderr
        assert "[costs] reconcile" in refused.stderr
