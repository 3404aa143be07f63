"""Results are copied to S3-compatible storage by the real service, through kills of either side."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from harness.running_service import (
    ENDPOINT,
    Receiver,
    a_config,
    a_kling,
    a_receiver,
    a_script_route,
    a_sink,
    a_webhook_route,
    script_lines,
    submit_task,
)
from harness.s3_server import ACCESS_KEY, BUCKET, SECRET_KEY, S3Server, an_s3_server, s3_proxy
from harness.waiting import wait_until

from receiver.kling.simulator.results import content

WITHOUT_EXTRA = 'import sys\nsys.modules["aiobotocore"] = None\n'


@pytest.fixture
async def s3(tmp_path: Path) -> AsyncIterator[S3Server]:
    async with an_s3_server(tmp_path) as s3:
        yield s3


def an_archive(endpoint: str, *, folder: str = "") -> str:
    return f"""
[archive]
dir = "{folder}"
[archive.storage]
url = "s3://{BUCKET}/kling"
endpoint = "{endpoint}"
access_key = "env:S3_KEY"
secret_key = "env:S3_SECRET"
[network]
allow = ["127.0.0.0/8"]
"""


KEYS = {"S3_KEY": ACCESS_KEY, "S3_SECRET": SECRET_KEY}


def arriving(folder: Path) -> list[str]:
    return [path.name for path in (folder / "var" / "arriving").rglob("*") if path.is_file()]


async def test_events_are_delivered_after_the_copy_with_its_location(tmp_path: Path, s3: S3Server) -> None:
    async with a_sink() as sink, a_kling() as kling:
        routes = a_webhook_route(sink) + a_script_route(tmp_path)
        config = a_config(kling.url, more=an_archive(s3.url, folder="results") + routes)
        async with a_receiver(tmp_path, config, environ=KEYS) as receiver:
            (tmp_path / "publish.sh").write_text('#!/bin/sh\nls "$KLING_ASSET_DIR" > "$OUT"\n')
            async with receiver.client() as client:
                task = await submit_task(client)
            await wait_until(lambda: len(sink.received) == 1)
            await wait_until(lambda: script_lines(tmp_path) == ["0.png"])

            [[event]] = sink.received.values()
            [asset] = event["data"]["assets"]
            key = f"kling/{task['id']}/{event['data']['event_id']}/0.png"
            made = content(event["data"]["task"]["kling_id"], "image-0.png")
            assert asset["storage"] == f"s3://{BUCKET}/{key}"
            assert asset["sha256"] == hashlib.sha256(made).hexdigest()
            assert s3.objects() == {key: made}
            assert await asyncio.to_thread(Path(asset["path"]).read_bytes) == made
            assert await receiver.stop() == 0
            assert not any(secret in receiver.log() for secret in (SECRET_KEY, ACCESS_KEY))


async def test_a_waiting_submit_prints_the_storage_location(tmp_path: Path, s3: S3Server) -> None:
    archive, image = an_archive(s3.url), ("--image", "https://example.com/a.png")
    async with a_kling() as kling, a_receiver(tmp_path, a_config(kling.url, more=archive), environ=KEYS) as receiver:
        done = await receiver.run_cli_async("submit", ENDPOINT, "--set", "prompt=a cat", *image, "--wait")

        assert done.returncode == 0, done.stderr
        [key] = s3.objects()
        assert done.stdout.split() == [f"s3://{BUCKET}/{key}"]
        assert arriving(tmp_path) == []


async def test_events_wait_while_the_storage_is_down(tmp_path: Path, s3: S3Server) -> None:
    s3.stop()
    async with a_sink() as sink, a_kling() as kling:
        config = a_config(kling.url, more=an_archive(s3.url) + a_webhook_route(sink))
        async with a_receiver(tmp_path, config, environ=KEYS) as receiver:
            async with receiver.client() as client:
                await submit_task(client)
            await wait_until(lambda: bool(receiver.log_entries("asset.failed")))
            assert "cannot be reached: Connection refused." in receiver.log_entries("asset.failed")[0]["reason"]
            assert sink.received == {}

            await s3.start()
            await wait_until(lambda: len(sink.received) == 1, seconds=60)
            assert len(s3.objects()) == 1


async def test_a_kill_after_a_copy_costs_a_second_copy_under_the_same_key(tmp_path: Path, s3: S3Server) -> None:
    async with a_sink() as sink, a_kling() as kling:
        receivers: list[Receiver] = []
        copies: list[bytes] = []

        async def killing(head: bytes) -> None:
            copies.append(head.split(b" ")[1])
            if len(copies) == 1:
                receivers[0].kill()  # the storage has the copy, but the receiver has not recorded it

        async with s3_proxy(s3.port, on_response=killing) as url:
            config = a_config(kling.url, more=an_archive(url) + a_webhook_route(sink))
            async with a_receiver(tmp_path, config, environ=KEYS) as receiver:
                receivers.append(receiver)
                async with receiver.client() as client:
                    await submit_task(client)
                await wait_until(lambda: bool(copies))
                await wait_until(lambda: receiver.process is not None and receiver.process.poll() is not None)
                assert (sink.received, len(s3.objects()), len(arriving(tmp_path))) == ({}, 1, 1)

                await receiver.start()
                await wait_until(lambda: len(sink.received) == 1, seconds=60)

                [[event]] = sink.received.values()
                assert [asset["storage"] for asset in event["data"]["assets"]] == [
                    f"s3://{BUCKET}/{key}" for key in s3.objects()
                ]
                assert len(set(copies)) == 1
                assert kling.counts["results"] == 1, "the file was here already"
                assert arriving(tmp_path) == []


async def test_without_the_extra_storage_is_refused_with_the_package_to_install(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(WITHOUT_EXTRA)
    environ = {**KEYS, "PYTHONPATH": str(tmp_path)}
    async with a_kling() as kling, a_receiver(tmp_path, a_config(kling.url), environ=environ) as receiver:
        assert await receiver.stop() == 0

        receiver.configure(a_config(kling.url, more=an_archive("http://127.0.0.1:1")))
        for command in (["serve"], ["config", "check"]):
            done = await receiver.run_cli_async(*command)
            assert done.returncode == 78
            assert "archive.storage.url: needs the extra `storage`, which is not installed" in done.stderr
            assert "pip install 'kling-receiver[storage]'" in done.stderr
