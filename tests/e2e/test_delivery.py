"""Delivery to destinations: each route at its own rate, with retries, and never abandoned silently."""

import asyncio
import contextlib
import json
import sqlite3
from datetime import timedelta
from pathlib import Path
from typing import Any

from harness.raw_http import http_request
from harness.running_service import (
    Receiver,
    Sink,
    a_config,
    a_kling,
    a_push_body,
    a_receiver,
    a_sink,
    a_webhook_route,
    create_callback_url,
    submit_task,
    wait_for_state,
)
from harness.waiting import wait_until
from starlette.responses import Response

from receiver.delivery.retry import MAX_UNFINISHED_CLAIMS, SUSPECT_AFTER

UNREACHABLE = "http://127.0.0.1:9"
TRUST_CALLBACKS = '[callbacks]\nverify = "never"\n'
QUICK = 'retry = ["50ms"]'


async def push_succeeded(receiver: Receiver, number: int = 1) -> list[str]:
    """Push a trusted success for this many tasks. Return the tasks' ids."""
    ids = []
    async with receiver.client() as client:
        for each in range(number):
            task, url = await create_callback_url(client)
            assert (
                await http_request("POST", url, a_push_body("succeed", task_id=f"86728374175911{each:04}"))
            ).status == 200
            ids.append(task["id"])
    return ids


def deliveries(receiver: Receiver, *, route: str = "hook") -> list[tuple[Any, ...]]:
    """Return status and attempts of a route's deliveries, oldest first."""
    return receiver.rows("SELECT status, attempts FROM deliveries WHERE route = ? ORDER BY id", route)


async def test_a_slow_route_delays_no_other(tmp_path: Path) -> None:
    gate = asyncio.Event()
    async with a_sink() as slow, a_sink() as fast:
        slow.answer = lambda: _respond_after(gate)
        routes = a_webhook_route(slow, name="slow", extra="concurrency = 2") + a_webhook_route(fast, name="fast")
        async with a_receiver(tmp_path, a_config(UNREACHABLE, more=TRUST_CALLBACKS + routes)) as receiver:
            await push_succeeded(receiver, 30)

            await wait_until(lambda: deliveries(receiver, route="fast") == [("delivered", 1)] * 30)

            assert len(slow.bodies) == 2
            assert {status for status, _ in deliveries(receiver, route="slow")} == {"pending"}
            gate.set()
            await wait_until(lambda: deliveries(receiver, route="slow") == [("delivered", 1)] * 30)


async def _respond_after(gate: asyncio.Event) -> int:
    await gate.wait()
    return 204


async def test_a_retry_has_the_same_webhook_id(tmp_path: Path) -> None:
    statuses = iter([500, 302, 404])
    async with a_sink() as sink:
        sink.answer = lambda: next(statuses, 204)
        config = a_config(UNREACHABLE, more=TRUST_CALLBACKS + a_webhook_route(sink, extra=QUICK))
        async with a_receiver(tmp_path, config) as receiver:
            await push_succeeded(receiver)

            await wait_until(lambda: deliveries(receiver) == [("delivered", 4)])

            assert len({headers["webhook-id"] for headers in sink.headers}) == 1
            assert len(set(sink.bodies)) == 1
            assert [headers["kling-receiver-attempt"] for headers in sink.headers] == ["1", "2", "3", "4"]
            outcomes = receiver.rows("SELECT outcome, code FROM attempts ORDER BY number")
            assert outcomes == [("failed", 500), ("failed", 302), ("failed", 404), ("accepted", 204)]


async def test_retry_after_is_respected(tmp_path: Path) -> None:
    answers = iter([Response(status_code=503, headers={"retry-after": "2"})])
    async with a_sink() as sink:
        sink.answer = lambda: next(answers, 204)
        config = a_config(UNREACHABLE, more=TRUST_CALLBACKS + a_webhook_route(sink, extra=QUICK))
        async with a_receiver(tmp_path, config) as receiver:
            await push_succeeded(receiver)

            await wait_until(lambda: deliveries(receiver) == [("delivered", 2)])

            (first,), (second,) = receiver.rows("SELECT started_at FROM attempts ORDER BY number")
            assert second - first >= timedelta(seconds=2) / timedelta(microseconds=1)


async def test_a_410_holds_the_route_and_later_deliveries_wait(tmp_path: Path) -> None:
    async with a_sink() as gone, a_sink() as oncall:
        gone.answer = lambda: 410
        routes = a_webhook_route(gone) + a_webhook_route(oncall, name="on-call", extra='on = ["alert"]')
        async with a_receiver(tmp_path, a_config(UNREACHABLE, more=TRUST_CALLBACKS + routes)) as receiver:
            await push_succeeded(receiver)
            await wait_until(lambda: deliveries(receiver) == [("dead", 1)])

            await push_succeeded(receiver, 3)
            await wait_until(lambda: len(oncall.bodies) == 1)

            alert = json.loads(oncall.bodies[0])
            assert alert["type"] == "alert.route_held"
            assert alert["data"]["route"] == "hook"
            async with receiver.client() as client:
                held, other = (await client.get("/api/routes")).json()["items"]
            assert held["held_at"] is not None
            assert held["pending"] == 3
            assert other["held_at"] is None
            assert deliveries(receiver) == [("dead", 1), *[("pending", 0)] * 3]
            assert len(gone.bodies) == 1


async def test_a_failing_route_is_held_through_a_restart_and_drains_oldest_first(
    tmp_path: Path,
) -> None:
    async with a_sink() as sink:
        sink.answer = lambda: 500
        # One attempt at a time, so that the order is visible.
        config = a_config(UNREACHABLE, more=TRUST_CALLBACKS + a_webhook_route(sink, extra=f"{QUICK}\nconcurrency = 1"))
        async with a_receiver(tmp_path, config) as receiver:
            ids = await push_succeeded(receiver, 3)
            await wait_until(lambda: len(receiver.log_entries("route.held")) == 1)
            assert len(sink.bodies) == 5
            ids += await push_succeeded(receiver, 2)
            sink.answer = lambda: 204
            await receiver.restart()
            async with receiver.client() as client:
                (route,) = (await client.get("/api/routes")).json()["items"]
                assert route["held_at"] is not None
                assert len(sink.bodies) == 5

                assert (await client.post("/api/routes/hook/release")).status_code == 200

            await wait_until(lambda: {status for status, _ in deliveries(receiver)} == {"delivered"})
            drained = [json.loads(body)["data"]["task"]["id"] for body in sink.bodies[5:]]
            assert drained == ids


async def test_conditions_select_a_routes_events(tmp_path: Path) -> None:
    async with a_sink() as ads, a_sink() as wide, a_sink() as broken, a_kling() as kling:
        routes = (
            a_webhook_route(ads, name="ads", extra="where = \"task.tags.project == 'ads'\"")
            + a_webhook_route(wide, name="wide", extra='where = "length(kling.task_result.images) > `1`"')
            + a_webhook_route(broken, name="broken", extra='where = "length(result.videos) > `0`"')
            + a_webhook_route(broken, name="videos", extra='endpoints = ["videos/*"]')
        )
        async with a_receiver(tmp_path, a_config(kling.url, more=routes)) as receiver, receiver.client() as client:
            first = await submit_task(client, tags={"project": "ads"})
            second = await submit_task(
                client, body={"prompt": "x", "subject_image_list": [{"subject_image": "http://a.b/c"}], "n": 3}
            )
            for task in (first, second):
                await wait_for_state(client, task["id"], "succeed")

            await wait_until(lambda: len(ads.bodies) == len(wide.bodies) == 1)

            assert json.loads(ads.bodies[0])["data"]["task"]["id"] == first["id"]
            assert json.loads(wide.bodies[0])["data"]["task"]["id"] == second["id"]
            assert receiver.rows("SELECT route, count(*) FROM deliveries GROUP BY route") == [("ads", 1), ("wide", 1)]


async def test_a_route_can_get_klings_unchanged_body(tmp_path: Path) -> None:
    odd = rb"""{ "task_id":"8672" , "big":1E3,
        "task_status" : "succeed","task_result":{"images":[{"index":0,"url":"http:\/\/c.d\u002f0"}]}}"""
    async with a_sink() as sink:
        config = a_config(UNREACHABLE, more=TRUST_CALLBACKS + a_webhook_route(sink, webhook='payload = "kling"'))
        async with a_receiver(tmp_path, config) as receiver, receiver.client() as client:
            _, url = await create_callback_url(client)
            await http_request("POST", url, odd)

            await wait_until(lambda: len(sink.bodies) == 1)

            assert sink.bodies == [odd]


async def test_retries_continue_after_a_restart_and_a_crash(tmp_path: Path) -> None:
    answers = iter([500, 500])
    async with a_sink() as sink:
        sink.answer = lambda: next(answers, 204)
        config = a_config(UNREACHABLE, more=TRUST_CALLBACKS + a_webhook_route(sink, extra='retry = ["1s"]'))
        async with a_receiver(tmp_path, config) as receiver:
            await push_succeeded(receiver)
            await wait_until(lambda: deliveries(receiver) == [("pending", 1)])
            await receiver.restart()
            await wait_until(lambda: deliveries(receiver) == [("pending", 2)])
            receiver.kill()
            await receiver.start()

            await wait_until(lambda: deliveries(receiver) == [("delivered", 3)])

            assert [headers["kling-receiver-attempt"] for headers in sink.headers] == ["1", "2", "3"]
            assert len(sink.received) == 1


async def test_deliveries_of_a_removed_route_wait_for_its_return(tmp_path: Path) -> None:
    async with a_sink() as sink, a_sink() as other:
        sink.answer = lambda: 500
        stays = a_webhook_route(other, name="stays")
        with_it = a_config(UNREACHABLE, more=TRUST_CALLBACKS + stays + a_webhook_route(sink, extra='retry = ["2s"]'))
        without = a_config(UNREACHABLE, more=TRUST_CALLBACKS + stays)
        async with a_receiver(tmp_path, with_it) as receiver:
            await push_succeeded(receiver)
            await wait_until(lambda: len(sink.bodies) == 1)
            await receiver.restart(without)
            left = deliveries(receiver)
            assert [status for status, _ in left] == ["pending"]
            await push_succeeded(receiver)
            await wait_until(lambda: deliveries(receiver, route="stays") == [("delivered", 1)] * 2)
            assert deliveries(receiver) == left

            sink.answer = lambda: 204
            await receiver.restart(with_it)

            await wait_until(lambda: deliveries(receiver) == [("delivered", left[0][1] + 1)])


async def test_a_webhook_that_echoes_its_request_shows_no_secret(tmp_path: Path) -> None:
    async with a_sink() as sink:
        sink.answer = lambda: Response(json.dumps(sink.headers[-1]) + "?key=query-canary-42", status_code=500)
        echoing = a_webhook_route(sink, webhook='headers = { authorization = "Bearer header-canary-42" }')
        echoing = echoing.replace(sink.url, f"{sink.url}?key=query-canary-42")
        async with a_receiver(tmp_path, a_config(UNREACHABLE, more=TRUST_CALLBACKS + echoing)) as receiver:
            await push_succeeded(receiver)
            await wait_until(lambda: deliveries(receiver) == [("pending", 1)])
            assert sink.headers[-1]["authorization"] == "Bearer header-canary-42"

            [(delivery,)] = receiver.rows("SELECT id FROM deliveries")
            shown = await receiver.run_cli_async("deliveries", "show", delivery, "--json")
            tested = await receiver.run_cli_async("routes", "test", "hook", "--json")

            for output in (shown.stdout, tested.stdout):
                assert "kling-receiver-delivery" in output
                assert "?key=***" in output
            assert "canary" not in shown.stdout + tested.stdout + receiver.log()


# A process that is killed again and again while a destination hangs.


def hanging_config(sink: Sink) -> str:
    sink.answer = _hang
    alerts = a_webhook_route(sink, name="on-call", extra='on = ["alert"]')
    return a_config(UNREACHABLE, more=TRUST_CALLBACKS + a_webhook_route(sink) + alerts)


async def _hang() -> int:
    await asyncio.Event().wait()
    return 204


async def kill_in_attempt(receiver: Receiver, sink: Sink, *, attempts: int) -> None:
    """Wait until so many attempts are in flight, kill the process and start it again."""
    await wait_until(lambda: len(sink.bodies) >= attempts)
    sink.bodies.clear()
    receiver.kill()
    await receiver.start()


async def test_events_in_flight_together_survive_eleven_kills(tmp_path: Path) -> None:
    async with a_sink() as sink, a_receiver(tmp_path, hanging_config(sink)) as receiver:
        await push_succeeded(receiver, 8)
        for life in range(11):
            await kill_in_attempt(receiver, sink, attempts=8 if life < SUSPECT_AFTER else 1)

        await wait_until(lambda: len(sink.bodies) == 1)
        receiver.kill()
        sink.answer = lambda: 204
        await receiver.start()

        await wait_until(lambda: deliveries(receiver) == [("delivered", 1)] * 8)
        assert "alert.delivery_dead" not in sink.types


async def test_a_delivery_alone_in_flight_at_ten_kills_dies_and_can_be_replayed(tmp_path: Path) -> None:
    async with a_sink() as sink, a_receiver(tmp_path, hanging_config(sink)) as receiver:
        await push_succeeded(receiver)
        await kill_in_attempt(receiver, sink, attempts=1)
        await wait_until(lambda: len(sink.bodies) == 1)
        receiver.kill()
        with contextlib.closing(sqlite3.connect(tmp_path / "var" / "receiver.db", isolation_level=None)) as database:
            # As if it had been killed that often.
            database.execute("UPDATE deliveries SET unfinished_claims = ?", [MAX_UNFINISHED_CLAIMS - 1])
        sink.answer = lambda: 204
        await receiver.start()

        await wait_until(lambda: "alert.delivery_dead" in sink.types)
        assert deliveries(receiver) == [("dead", 1)]
        [alert] = next(bodies for bodies in sink.received.values() if bodies[-1]["type"] == "alert.delivery_dead")
        remedy = alert["data"]["remedy"].partition("`kling-receiver ")[2].partition("`")[0]
        answer = await receiver.run_cli_async(*remedy.split())

        assert answer.returncode == 0, answer.stderr
        await wait_until(lambda: deliveries(receiver) == [("dead", 1), ("delivered", 1)])
