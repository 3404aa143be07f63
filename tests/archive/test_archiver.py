"""Results are archived completely before events are delivered."""

import asyncio
import hashlib
import json
from pathlib import Path

import pytest
from harness.archive_system import A_PNG, JPG, PNG, ArchiveSystem, a_cdn
from harness.http_peers import http_peer, response

# What arrives


async def test_results_are_archived_before_delivery(system: ArchiveSystem) -> None:
    async with a_cdn(a=A_PNG, b=response(200, JPG, content_type="image/jpeg; q=1")) as cdn:
        event = await system.succeed_task(f"{cdn.url}/a?sig=x", f"{cdn.url}/b")
        assert await system.due_by_route(event) == {"publish": False}
        system.start()
        assets = await system.wait_for_assets(event)

    folder = system.folder / str(event.task_id) / event.id
    assert assets == [
        {"url": f"{cdn.url}/a?sig=x", "path": str(folder / "0.png"), "sha256": hashlib.sha256(PNG).hexdigest(),
         "bytes": len(PNG), "content_type": "image/png"},
        {"url": f"{cdn.url}/b", "path": str(folder / "1.jpg"), "sha256": hashlib.sha256(JPG).hexdigest(),
         "bytes": len(JPG), "content_type": "image/jpeg"},
    ]  # fmt: skip
    assert ((folder / "0.png").read_bytes(), (folder / "1.jpg").read_bytes()) == (PNG, JPG)
    assert system.files() == [f"{event.task_id}/{event.id}/{name}" for name in ("0.png", "1.jpg")]
    assert await system.due_by_route(event) == {"publish": True}
    [sent] = await system.store.deliveries.claim(
        "publish", now=system.clock.now(), until=system.clock.now(), limit=1, claim="c"
    )
    assert json.loads(sent.event.envelope)["data"]["assets"] == assets
    assert (await system.store.stats())["assets"] == 2
    assert await system.alerts() == []


async def test_batch_waiters_are_woken_when_delivery_may_start_not_before(system: ArchiveSystem) -> None:
    async with a_cdn(a=A_PNG) as cdn:
        event = await system.succeed_task(f"{cdn.url}/a")
        woken = system.notifiers.batches.subscribe()
        assert not woken.is_set()
        system.start()
        await system.wait_for_assets(event)
        async with asyncio.timeout(10):
            await woken.wait()

    assert await system.due_by_route(event) == {"publish": True}


async def test_a_result_listed_twice_is_one_file(system: ArchiveSystem) -> None:
    async with a_cdn(a=A_PNG) as cdn:
        event = await system.succeed_task(f"{cdn.url}/a", f"{cdn.url}/a")
        system.start()

        assert len(await system.wait_for_assets(event)) == 1
        assert len(cdn.requests) == 1


async def test_a_success_without_files_is_delivered_at_once(system: ArchiveSystem) -> None:
    event = await system.succeed_task()
    assert await system.archive_state(event) is None
    assert await system.due_by_route(event) == {"publish": True}

    event = await system.succeed_task("data:image/png;base64,xxxx", "ftp://example.com/a.png", "")
    assert await system.due_by_route(event) == {"publish": True}


async def test_a_clients_callback_url_does_not_wait_for_the_archive(system: ArchiveSystem) -> None:
    event = await system.succeed_task("https://cdn.example.com/0.png", reply_to="https://client.example.com/cb")

    assert await system.due_by_route(event) == {"publish": False, "reply:client.example.com": True}


async def test_an_unverified_event_is_archived_only_if_a_route_takes_it(system: ArchiveSystem) -> None:
    event = await system.succeed_task("https://cdn.example.com/0.png", trusted=False)

    assert await system.archive_state(event) is None


async def test_a_probe_of_a_held_route_skips_deliveries_that_wait_for_the_archive(system: ArchiveSystem) -> None:
    await system.succeed_task("https://cdn.example.com/0.png")
    now = system.clock.now()

    assert await system.store.deliveries.claim("publish", now=now, until=now, limit=1, claim="c", early=True) == []
    assert (await system.store.deliveries.release_all(now=now, suspect_after=3)).released == 0
    assert await system.store.deliveries.retry_now("publish", now=now) == 0


async def test_file_names_never_use_untrusted_input(system: ArchiveSystem) -> None:
    hostile = ["..%2f..%2fetc%2fpasswd", "a.php", "%00.sh", "x" * 900, "con.txt%0d%0aSet-Cookie:a", "~root"]
    names = {"content_disposition": 'attachment; filename="../../../evil.sh"'}
    async with http_peer(response(200, JPG, content_type="text/x-shellscript", **names)) as cdn:
        event = await system.succeed_task(*(f"{cdn.url}/{name}" for name in hostile))
        system.start()
        assets = await system.wait_for_assets(event)

    assert [Path(asset["path"]).name for asset in assets] == [f"{n}.jpg" for n in range(6)]
    assert {Path(asset["path"]).parent for asset in assets} == {system.folder / str(event.task_id) / event.id}
    assert len(system.files()) == 6


@pytest.mark.parametrize(
    ("content_type", "body", "name", "announced"),
    [
        ("image/png", JPG, "0.png", "image/png"),
        ("image/jpg", JPG, "0.jpg", "image/jpeg"),
        ("video/mp4", b"x", "0.mp4", "video/mp4"),
        ("audio/x-wav", b"x", "0.wav", "audio/wav"),
        ("", PNG, "0.png", "image/png"),
        ("binary/octet-stream", b"\0\0\0\x20ftypisom", "0.mp4", "video/mp4"),
        ("application/octet-stream", b"RIFF\0\0\0\0WEBPVP8 ", "0.webp", "image/webp"),
        ("application/x-sh", b"#!/bin/sh", "0.bin", "application/octet-stream"),
        ("../../etc/passwd", b"root:x", "0.bin", "application/octet-stream"),
    ],
)
async def test_a_file_extension_follows_from_the_type_or_the_first_bytes(
    system: ArchiveSystem, content_type: str, body: bytes, name: str, announced: str
) -> None:
    async with http_peer(response(200, body, content_type=content_type)) as cdn:
        event = await system.succeed_task(f"{cdn.url}/0.exe")
        system.start()
        [asset] = await system.wait_for_assets(event)

    assert (Path(asset["path"]).name, asset["content_type"]) == (name, announced)
