"""Hold, replay and explain with real processes: operator actions survive kills."""

import asyncio
import getpass
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx2
from harness.running_service import Receiver, Sink, a_config, a_kling, a_receiver, a_sink, a_webhook_route
from harness.waiting import wait_until
from harness.whole_service import a_whole_service

BODY = {"prompt": "a cat", "subject_image_list": [{"subject_image": "https://example.com/a.png"}]}


def a_script_route(folder: Path) -> str:
    """A route to a script that fails while a file exists, and otherwise appends events to a file."""
    script = folder / "publish.sh"
    script.write_text(
        '#!/bin/sh\n[ -e "$0.broken" ] && echo "I am broken" && exit 65\necho "$KLING_EVENT_ID" >> "$OUT"\n'
    )
    script.chmod(0o755)
    return f"""
[[routes]]
name = "publish"
script = {{ command = ["{script}"], env = {{ OUT = "{folder / "published"}" }} }}
"""


async def submit(client: httpx2.AsyncClient, count: int) -> list[str]:
    ids = []
    for _ in range(count):
        created = await client.post("/api/tasks", json={"endpoint": "images/multi-image2image", "body": BODY})
        assert created.status_code == 202, created.text
        ids.append(created.json()["id"])
    return ids


async def deliveries(receiver: Receiver, **query: str) -> list[dict[str, Any]]:
    async with receiver.client() as client:
        found: list[dict[str, Any]] = (await client.get("/api/deliveries", params=query | {"limit": "500"})).json()[
            "items"
        ]
        return list(reversed(found))


async def test_a_replay_and_its_command_continue_after_a_kill(tmp_path: Path) -> None:
    broken = tmp_path / "publish.sh.broken"
    broken.touch()
    async with a_kling() as kling, a_receiver(tmp_path, a_config(kling.url, more=a_script_route(tmp_path))) as receiver:
        async with receiver.client() as client:
            await submit(client, 12)

        async def all_are_dead() -> bool:
            return len(await deliveries(receiver, status="dead")) == 12

        await wait_until(all_are_dead)
        before = await deliveries(receiver, status="dead")
        broken.unlink()
        dry = receiver.run_cli("replay", "--route", "publish", "--status", "dead", "--dry-run")
        assert dry.stdout.startswith("publish\tdead\t12\t")
        assert not (tmp_path / "published").exists()

        argv = ("replay", "--route", "publish", "--status", "dead", "--pace", "4/s", "--why", "mended", "--json")
        running = asyncio.create_task(asyncio.to_thread(receiver.run_cli, *argv))
        await wait_until(lambda: len(published_events(tmp_path)) >= 3)
        receiver.kill()
        assert len(set(published_events(tmp_path))) < 12
        await receiver.start()
        command = await running

        assert command.returncode == 0, command.stderr
        replay = json.loads(command.stdout)
        assert (replay["state"], replay["created"], replay["total"]) == ("done", 12, 12)
        assert (replay["actor"], replay["why"]) == (getpass.getuser(), "mended")
        await wait_until(lambda: len(set(published_events(tmp_path))) == 12)
        again = [each for each in await deliveries(receiver) if each["replay_of"]]
        assert [each["replay_of"] for each in again] == [each["id"] for each in before]
        assert [each["event_id"] for each in again] == [each["event_id"] for each in before]
        assert await deliveries(receiver, status="dead") == before
        assert await receiver.stop() == 0


def published_events(folder: Path) -> Sequence[str]:
    file = folder / "published"
    return file.read_text().split() if file.exists() else []


async def test_a_held_route_stays_held_through_a_kill_until_released(tmp_path: Path) -> None:
    async with a_sink() as sink, a_sink() as mail, a_kling() as kling:
        sink.answer = lambda: 500
        routes = a_webhook_route(sink, extra='retry = ["50ms"]') + a_webhook_route(
            mail, name="mail", extra='on = ["alert"]'
        )
        async with a_receiver(tmp_path, a_config(kling.url, more=routes)) as receiver:
            async with receiver.client() as client:
                tasks = await submit(client, 3)
                await wait_until(lambda: len(mail.received) == 1)
                held = (await client.get("/api/routes")).json()["items"][0]
            assert (held["held_by"], held["failures"] >= 5) == ("failures", True)
            story = receiver.run_cli("explain", tasks[0]).stdout
            assert "held since" in story.splitlines()[-1]

            receiver.kill()
            sent = len(sink.bodies)
            await receiver.start()
            assert receiver.run_cli("routes", "list").stdout.startswith("hook\twebhook\t")
            sink.answer = lambda: 204
            released = receiver.run_cli("routes", "release", "hook", "--why", "mended", "--json")
            assert json.loads(released.stdout)["held_by"] is None
            await wait_until(lambda: len(accepted_since(sink, sent)) == 3)
            await wait_until(lambda: len(mail.received) == 2)

            kinds = [json.loads(body)["type"] for body in mail.bodies]
            assert kinds == ["alert.route_held", "alert.route_recovered"]
            last = receiver.run_cli("explain", tasks[0]).stdout.splitlines()[-1]
            assert (
                last == "next\tNothing more to do: the task is finished, and every matching route received its event."
            )
            assert await receiver.stop() == 0


def accepted_since(sink: Sink, since: int) -> set[str]:
    """Return the events accepted after the first *count*."""
    return {headers["webhook-id"] for headers in sink.headers[since:]}


async def test_a_manually_held_route_delivers_nothing_until_retried(tmp_path: Path) -> None:
    async with a_whole_service(tmp_path) as (sink, _, receiver, _):
        assert receiver.run_cli("routes", "hold", "hook", "--why", "moving").returncode == 0
        async with receiver.client() as client:
            [task] = await submit(client, 1)

            async def is_over() -> bool:
                return bool((await client.get(f"/api/tasks/{task}")).json()["state"] == "succeed")

            await wait_until(is_over)
        outlook = receiver.run_cli("explain", task).stdout.splitlines()[-1]
        assert "held by an operator (moving). To release it: kling-receiver routes release hook" in outlook
        assert sink.bodies == []

        receiver.run_cli("routes", "release", "hook")
        await wait_until(lambda: len(sink.bodies) == 1)

        async def is_delivered() -> bool:
            return len(await deliveries(receiver, status="delivered")) == 1

        await wait_until(is_delivered)
        [first] = await deliveries(receiver)
        again = receiver.run_cli("deliveries", "retry", first["id"], "--json")
        await wait_until(lambda: len(sink.bodies) == 2)

        assert json.loads(again.stdout)["replay_of"] == first["id"]
        assert sink.headers[0]["webhook-id"] == sink.headers[1]["webhook-id"]
        assert sink.headers[0]["kling-receiver-delivery"] != sink.headers[1]["kling-receiver-delivery"]


async def test_explain_shows_a_tasks_complete_history(tmp_path: Path) -> None:
    async with a_sink() as sink, a_kling() as kling:
        routes = a_webhook_route(sink) + a_webhook_route(sink, name="failures", extra='on = ["failed"]')
        async with a_receiver(tmp_path, a_config(kling.url, more=routes)) as receiver, receiver.client() as client:
            [task] = await submit(client, 1)
            await wait_until(lambda: len(sink.bodies) == 1)

            async def is_delivered() -> bool:
                return len(await deliveries(receiver, status="delivered")) == 1

            await wait_until(is_delivered)

            story = json.loads(receiver.run_cli("explain", task, "--json").stdout)

            assert story["intent"]["prompt"] == "a cat"
            sources = {push["source"] for push in story["pushes"]}
            assert sources == {"callback", "poll"}
            assert all(json.loads(push["body"]) for push in story["pushes"])
            [end] = [event for event in story["events"] if event["type"] == "task.succeed"]
            decisions = {decision["route"]: decision for decision in end["decisions"]}
            assert decisions["hook"]["wanted"] is True
            assert decisions["failures"]["reason"] == 'on = ["failed"] does not name "succeed"'
            [delivery] = end["deliveries"]
            assert [attempt["code"] for attempt in delivery["attempts_made"]] == [204]
            assert story["next"].startswith("Nothing more")
