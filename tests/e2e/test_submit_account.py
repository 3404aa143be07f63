"""Account problems, with the real process: one alert through a kill, nothing lost, and recovery without a restart."""

import json
from pathlib import Path

from harness.running_service import a_config, a_kling, a_receiver, a_sink, a_webhook_route, submit_task, wait_for_state
from harness.waiting import wait_until


async def test_an_account_problem_raises_one_alert_through_a_kill_and_recovers(
    tmp_path: Path,
) -> None:
    async with a_sink() as sink, a_kling(refuse=[{"code": 1101, "next": 10_000}]) as kling:
        config = a_config(kling.url, more=a_webhook_route(sink, extra='on = ["succeed", "alert"]'))
        async with a_receiver(tmp_path, config) as receiver:
            async with receiver.client() as client:
                waiting = [await submit_task(client) for _ in range(20)]
                await wait_until(lambda: "alert.account" in sink.types)

            receiver.kill()
            tried = kling.state()["counts"]["creates"]
            await receiver.start()

            async with receiver.client() as client:
                await wait_until(lambda: kling.state()["counts"]["creates"] > tried)
                assert kling.state()["counts"]["creates"] <= tried + 3
                kling.configure({"refuse": []})
                for task in waiting:
                    await wait_for_state(client, task["id"], "succeed")

            await wait_until(lambda: "alert.account_recovered" in sink.types)
            await wait_until(lambda: sink.types.count("task.succeed") == len(waiting))
            assert sink.types.count("alert.account") == 1
            [alert] = [data for data in map(_data, sink.bodies) if data.get("kling_code")]
            assert "arrears" in str(alert["remedy"])
            assert kling.state()["counts"]["created"] == len(waiting)


def _data(body: bytes) -> dict[str, object]:
    data: dict[str, object] = json.loads(body)["data"]
    return data
