"""Results are downloaded before events are delivered, in the real service, through kills and stops."""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from harness.http_client import plain_http
from harness.http_peers import Peer, http_peer, response
from harness.running_service import (
    ENDPOINT,
    Receiver,
    a_config,
    a_kling,
    a_receiver,
    a_script_route,
    a_sink,
    a_webhook_route,
    submit_task,
    wait_for_state,
)
from harness.waiting import wait_until
from harness.whole_service import a_whole_service

from receiver.kling.simulator.results import content

ARCHIVE = '[archive]\ndir = "results"\n[network]\nallow = ["127.0.0.0/8"]\n'


async def test_events_are_delivered_after_the_download(tmp_path: Path) -> None:
    async with a_whole_service(tmp_path, more=ARCHIVE + a_script_route(tmp_path)) as (sink, kling, receiver, client):
        (tmp_path / "publish.sh").write_text('#!/bin/sh\nls "$KLING_ASSET_DIR" > "$OUT"\n')
        created = await submit_task(client, body={"prompt": "a cat", "n": 3, "subject_image_list": IMAGES})
        await wait_until(lambda: len(sink.received) == 1)

        [[event]] = sink.received.values()
        assert [Path(asset["path"]).name for asset in event["data"]["assets"]] == ["0.png", "1.png", "2.png"]
        for asset, entry in zip(event["data"]["assets"], event["data"]["result"]["images"], strict=True):
            await assert_downloaded(asset, entry["url"])
        shown = await wait_for_state(client, created["id"], "succeed")
        assert shown["assets"] == event["data"]["assets"]
        assert shown["archiving"] is None
        await wait_until(lambda: script_output(tmp_path) == ["0.png", "1.png", "2.png"])
        assert kling.counts["results"] == 6, "each once by us and once by the test"
        assert await receiver.stop() == 0


async def test_a_waiting_submit_prints_the_files(tmp_path: Path) -> None:
    async with a_kling() as kling, a_receiver(tmp_path, a_config(kling.url, more=ARCHIVE)) as receiver:
        image = "https://example.com/a.png"
        done = await asyncio.to_thread(
            receiver.run_cli, "submit", ENDPOINT, "--set", "prompt=a cat", "--image", image, "--wait"
        )

        assert done.returncode == 0, done.stderr
        [place] = done.stdout.splitlines()
        assert Path(place).is_relative_to(tmp_path / "results")
        assert content_of(place).startswith(b"\x89PNG")


async def test_a_kill_during_a_download_costs_only_a_second_download(tmp_path: Path) -> None:
    async with a_cdn() as cdn, a_sink() as sink, a_kling(public_url=cdn.peer.url) as kling:
        config = a_config(kling.url, more=ARCHIVE + a_webhook_route(sink))
        async with a_receiver(tmp_path, config) as receiver:
            cdn.is_interrupted = True
            async with receiver.client() as client:
                task = await submit_task(client)
            await wait_until(lambda: partial_files(tmp_path) != [])
            receiver.kill()
            assert sink.received == {}
            assert result_files(tmp_path) == []

            cdn.is_interrupted = False
            await receiver.start()
            await wait_until(lambda: len(sink.received) == 1)

            [[event]] = sink.received.values()
            [asset] = event["data"]["assets"]
            kling_id = event["data"]["task"]["kling_id"]
            assert content_of(asset["path"]) == content(kling_id, "image-0.png")
            assert asset["sha256"] == hashlib.sha256(content(kling_id, "image-0.png")).hexdigest()
            assert result_files(tmp_path) == [f"{task['id']}/{event['data']['event_id']}/0.png"]
            assert partial_files(tmp_path) == []
            await wait_until(lambda: one_delivery(receiver) == [("delivered", 1)])


async def test_a_stop_interrupts_a_download_and_the_next_start_resumes_it(tmp_path: Path) -> None:
    async with a_cdn() as cdn, a_sink() as sink, a_kling(public_url=cdn.peer.url) as kling:
        cdn.is_interrupted = True
        config = a_config(kling.url, more=ARCHIVE + a_webhook_route(sink))
        async with a_receiver(tmp_path, config) as receiver:
            async with receiver.client() as client:
                await submit_task(client)
            await wait_until(lambda: partial_files(tmp_path) != [])
            assert await receiver.stop(seconds=15) == 0

            cdn.is_interrupted = False
            await receiver.start()
            await wait_until(lambda: len(sink.received) == 1)
            await wait_until(lambda: one_delivery(receiver) == [("delivered", 1)])


async def test_turning_the_archive_off_delivers_waiting_events(tmp_path: Path) -> None:
    async with a_cdn() as cdn, a_sink() as sink, a_kling(public_url=cdn.peer.url) as kling:
        cdn.is_interrupted = True
        config = a_config(kling.url, more=ARCHIVE + a_webhook_route(sink))
        async with a_receiver(tmp_path, config) as receiver:
            async with receiver.client() as client:
                await submit_task(client)
            await wait_until(lambda: partial_files(tmp_path) != [])

            await receiver.restart(a_config(kling.url, more=a_webhook_route(sink)))
            await wait_until(lambda: len(sink.received) == 1)

            [[event]] = sink.received.values()
            assert "assets" not in event["data"]


IMAGES = [{"subject_image": "https://example.com/a.png"}]


class Cdn:
    """Serves the simulator's files. While told to, it stops in the middle of a file and then sends nothing."""

    def __init__(self) -> None:
        self.is_interrupted = False
        self.peer: Peer

    async def answer(self, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _, _results, task_id, name = self.peer.requests[-1].line.split()[1].partition("?")[0].split("/")
        body = response(200, content(task_id, name), content_type="image/png", etag='"v1"')
        if self.is_interrupted:
            writer.write(body[: len(body) - 200])
            await asyncio.sleep(600)
        writer.write(body)


@contextlib.asynccontextmanager
async def a_cdn() -> AsyncIterator[Cdn]:
    cdn = Cdn()
    async with http_peer(cdn.answer) as cdn.peer:
        yield cdn


async def assert_downloaded(asset: dict[str, Any], url: str) -> None:
    """Assert that a file has the content of its URL."""
    async with plain_http() as client:
        there = (await client.get(url)).content
    assert asset["url"] == url
    assert content_of(asset["path"]) == there
    assert (asset["bytes"], asset["sha256"]) == (len(there), hashlib.sha256(there).hexdigest())


def content_of(path: str) -> bytes:
    return Path(path).read_bytes()


def script_output(folder: Path) -> list[str]:
    file = folder / "published.jsonl"
    return file.read_text().split() if file.exists() else []


def result_files(folder: Path) -> list[str]:
    files = (path for path in (folder / "results").rglob("*.png") if path.is_file())
    return sorted(str(path.relative_to(folder / "results")) for path in files)


def partial_files(folder: Path) -> list[str]:
    return [path.name for path in (folder / "results").rglob("*.part")]


def one_delivery(receiver: Receiver) -> list[tuple[Any, ...]]:
    """Return status and attempts of the success event's deliveries."""
    return receiver.rows(
        "SELECT status, attempts FROM deliveries JOIN events ON events.id = event_id WHERE type = 'task.succeed'"
    )
