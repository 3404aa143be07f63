"""A result counts as archived once the object store has it; no error there loses a file."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from harness.archive_system import A_PNG, JPG, PNG, ArchiveSystem, a_cdn, an_archive_system
from harness.http_peers import response
from harness.s3_server import ACCESS_KEY, BUCKET, SECRET_KEY, S3Server, an_s3_server
from harness.waiting import wait_until

from receiver.archive.archiver import MAX_CONCURRENT, CopyTarget
from receiver.archive.retry import GIVE_UP_AFTER, WARN_AFTER
from receiver.archive.s3 import S3Storage, open_s3
from receiver.domain.model import ArchiveState, Asset
from receiver.domain.secret import Secret
from receiver.events.factory import MAX_ARCHIVE_WAIT
from receiver.net.ssrf_guard import OperatorGuard
from receiver.settings.storage import StorageSettings


@pytest.fixture
async def s3(tmp_path: Path) -> AsyncIterator[S3Server]:
    async with an_s3_server(tmp_path) as s3:
        yield s3


@pytest.fixture
async def storage(s3: S3Server) -> AsyncIterator[S3Storage]:
    settings = StorageSettings.model_construct(
        url=f"s3://{BUCKET}/kling",
        endpoint=s3.url,
        region="us-east-1",
        access_key=Secret(ACCESS_KEY),
        secret_key=Secret(SECRET_KEY),
    )
    async with open_s3(settings, guard=OperatorGuard()) as storage:
        yield storage


@pytest.fixture
async def system(tmp_path: Path, storage: S3Storage) -> AsyncIterator[ArchiveSystem]:
    async with an_archive_system(tmp_path) as system:
        system.copy_target = CopyTarget(storage=storage)
        yield system


async def test_a_result_is_in_the_folder_and_the_bucket_and_the_event_names_both(
    system: ArchiveSystem, s3: S3Server
) -> None:
    async with a_cdn(a=A_PNG, b=response(200, JPG, content_type="image/jpeg")) as cdn:
        event = await system.succeed_task(f"{cdn.url}/a", f"{cdn.url}/b")
        system.start()
        assets = await system.wait_for_assets(event)

    names = [f"{event.task_id}/{event.id}/{name}" for name in ("0.png", "1.jpg")]
    assert [asset["storage"] for asset in assets] == [f"s3://{BUCKET}/kling/{name}" for name in names]
    assert [asset["path"] for asset in assets] == [str(system.folder / name) for name in names]
    assert s3.objects() == {f"kling/{name}": content for name, content in zip(names, (PNG, JPG), strict=True)}
    assert await system.due_by_route(event) == {"publish": True}
    assert (await system.store.stats())["assets"] == 2


async def test_with_a_bucket_alone_no_local_file_stays(system: ArchiveSystem, storage: S3Storage, s3: S3Server) -> None:
    system.copy_target = CopyTarget(storage=storage, remove_local=True)
    async with a_cdn(a=A_PNG) as cdn:
        event = await system.succeed_task(f"{cdn.url}/a")
        system.start()
        [asset] = await system.wait_for_assets(event)

    name = f"kling/{event.task_id}/{event.id}/0.png"
    assert (asset.get("path"), asset["storage"], asset["bytes"]) == (None, f"s3://{BUCKET}/{name}", len(PNG))
    assert s3.objects() == {name: PNG}
    assert list(system.folder.iterdir()) == []


async def test_while_the_object_store_is_down_delivery_waits_then_has_the_file(
    system: ArchiveSystem, s3: S3Server
) -> None:
    s3.stop()
    async with a_cdn(a=A_PNG) as cdn:
        event = await system.succeed_task(f"{cdn.url}/a")
        system.start()
        await system.advance_to_age(event, MAX_ARCHIVE_WAIT - timedelta(seconds=1), lambda: True)
        assert await system.due_by_route(event) == {"publish": False}
        await system.advance_to_age(event, MAX_ARCHIVE_WAIT, lambda: True)
        [asset] = await system.wait_for_assets(event, ArchiveState.LATE)
        assert (system.content(asset), asset.get("storage")) == (PNG, None)
        assert await system.due_by_route(event) == {"publish": True}
        await system.advance_to_age(event, WARN_AFTER, lambda: True)
        await system.wait_for_assets(event, ArchiveState.EXPIRING)

        await s3.start()
        await system.advance_to_age(event, WARN_AFTER + timedelta(hours=1), lambda: True)
        [asset] = await system.wait_for_assets(event)
        assert len(cdn.requests) == 1, "what is here is not fetched again"

    assert list(s3.objects().values()) == [PNG]
    assert asset["storage"].startswith("s3://")
    alerts = await system.alerts()
    assert [what for what, _ in alerts] == ["asset_lost", "asset_expiring", "asset_recovered"]
    assert "were not copied to the object store in time" in alerts[0][1]["message"]
    assert "cannot be reached" in alerts[0][1]["results"][0]["reason"]
    assert alerts[0][1]["results"][0]["path"] == asset["path"]


async def test_a_hanging_object_store_does_not_delay_local_files(system: ArchiveSystem) -> None:
    class Hanging:
        async def put(self, file: Path, name: str, asset: Asset) -> str:
            await asyncio.Event().wait()
            return f"{file} {name} {asset}"

    system.copy_target = CopyTarget(storage=Hanging())
    async with a_cdn(a=A_PNG) as cdn:
        for number in range(2 * MAX_CONCURRENT):
            await system.succeed_task(f"{cdn.url}/a?{number}")
        system.start()
        await wait_until(
            lambda: len([name for name in system.files() if name.endswith("/0.png")]) == 2 * MAX_CONCURRENT
        )


@pytest.mark.parametrize("alone", [True, False])
async def test_a_file_that_cannot_be_copied_to_the_storage_stays_local(
    system: ArchiveSystem, storage: S3Storage, s3: S3Server, *, alone: bool
) -> None:
    system.copy_target = CopyTarget(storage=storage, remove_local=alone)
    s3.stop()
    async with a_cdn(a=A_PNG) as cdn:
        event = await system.succeed_task(f"{cdn.url}/a")
        system.clock.advance(GIVE_UP_AFTER)
        system.start()
        await system.wait_for_assets(event)

    [(what, alert)] = await system.alerts()
    assert (what, alert["message"]) == (
        "asset_lost",
        "1 of 1 results cannot be copied to the object store and are no longer retried.",
    )
    assert system.content(alert["results"][0]) == PNG


async def test_an_alert_names_a_missing_bucket_and_archiving_resumes_once_it_exists(
    system: ArchiveSystem, s3: S3Server
) -> None:
    shutil.rmtree(s3.root / BUCKET)
    async with a_cdn(a=A_PNG) as cdn:
        event = await system.succeed_task(f"{cdn.url}/a")
        system.start()
        await system.advance_to_age(event, MAX_ARCHIVE_WAIT, lambda: True)
        await system.wait_for_assets(event, ArchiveState.LATE)
        (s3.root / BUCKET).mkdir()
        await system.advance_to_age(event, 3 * MAX_ARCHIVE_WAIT, lambda: True)
        await system.wait_for_assets(event)

    [(_, alert), _] = await system.alerts()
    assert "(NoSuchBucket)" in alert["results"][0]["reason"]
    assert "Create the bucket" in alert["results"][0]["reason"]
    assert len(s3.objects()) == 1


async def test_wrong_keys_are_reported_and_right_keys_resume(
    system: ArchiveSystem, storage: S3Storage, s3: S3Server
) -> None:
    wrong = StorageSettings.model_construct(
        url=f"s3://{BUCKET}/kling",
        endpoint=s3.url,
        region="us-east-1",
        access_key=Secret(ACCESS_KEY),
        secret_key=Secret("not-the-key"),
    )
    async with a_cdn(a=A_PNG) as cdn, open_s3(wrong, guard=OperatorGuard()) as refused:
        system.copy_target = CopyTarget(storage=refused)
        event = await system.succeed_task(f"{cdn.url}/a")
        system.start()
        await system.advance_to_age(event, MAX_ARCHIVE_WAIT, lambda: True)
        await system.wait_for_assets(event, ArchiveState.LATE)
        await system.shut_down()

        system.copy_target = CopyTarget(storage=storage)
        system.clock.advance(MAX_ARCHIVE_WAIT)
        system.start()
        await system.wait_for_assets(event)
        assert len(cdn.requests) == 1

    alerts = await system.alerts()
    assert "(SignatureDoesNotMatch)" in alerts[0][1]["results"][0]["reason"]
    assert all(key not in json.dumps(alerts) for key in (ACCESS_KEY, SECRET_KEY, "not-the-key"))
    assert len(s3.objects()) == 1


async def test_a_copy_that_was_not_recorded_is_repeated_under_the_same_key(
    system: ArchiveSystem, storage: S3Storage, s3: S3Server
) -> None:
    async with a_cdn(a=A_PNG) as cdn:
        event = await system.succeed_task(f"{cdn.url}/a")
        folder = system.folder / str(event.task_id) / event.id
        folder.mkdir(parents=True)
        (folder / "0.png").write_bytes(PNG)
        (s3.root / BUCKET / "kling" / str(event.task_id) / event.id).mkdir(parents=True)
        (s3.root / BUCKET / "kling" / str(event.task_id) / event.id / "0.png").write_bytes(PNG)
        system.copy_target = CopyTarget(storage=storage, remove_local=True)
        system.start()
        await system.wait_for_assets(event)

    assert cdn.connections == 0
    assert list(s3.objects().values()) == [PNG]
    assert list(system.folder.iterdir()) == []
