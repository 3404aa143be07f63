"""A result is home when the storage has it: routes wait for that as for a file, and no trouble there loses one."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from harness.archive_system import A_PNG, JPG, PNG, Workshop, a_cdn, a_workshop
from harness.http_peers import response
from harness.s3_server import ACCESS_KEY, BUCKET, SECRET_KEY, Buckets, a_store_of_buckets
from harness.support import until

from receiver.archive.archiver import AT_ONCE, Copies
from receiver.archive.policy import GIVE_UP_AFTER, WARN_AFTER
from receiver.archive.s3 import S3Storage, opened
from receiver.domain.model import Archiving, Asset, Secret
from receiver.events.factory import HELD_BACK
from receiver.net.ssrf_guard import OperatorGuard
from receiver.settings.storage import StorageSettings


@pytest.fixture
async def buckets(tmp_path: Path) -> AsyncIterator[Buckets]:
    async with a_store_of_buckets(tmp_path) as buckets:
        yield buckets


@pytest.fixture
async def storage(buckets: Buckets) -> AsyncIterator[S3Storage]:
    settings = StorageSettings.model_construct(
        url=f"s3://{BUCKET}/kling",
        endpoint=buckets.url,
        region="us-east-1",
        access_key=Secret(ACCESS_KEY),
        secret_key=Secret(SECRET_KEY),
    )
    async with opened(settings, guard=OperatorGuard()) as storage:
        yield storage


@pytest.fixture
async def shop(tmp_path: Path, storage: S3Storage) -> AsyncIterator[Workshop]:
    async with a_workshop(tmp_path) as shop:
        shop.copies = Copies(storage=storage)
        yield shop


async def test_a_result_is_at_both_places_and_the_event_tells_both(shop: Workshop, buckets: Buckets) -> None:
    async with a_cdn(a=A_PNG, b=response(200, JPG, content_type="image/jpeg")) as cdn:
        event = await shop.succeeds(f"{cdn.url}/a", f"{cdn.url}/b")
        shop.start()
        assets = await shop.settled(event)

    names = [f"{event.task_id}/{event.id}/{name}" for name in ("0.png", "1.jpg")]
    assert [asset["storage"] for asset in assets] == [f"s3://{BUCKET}/kling/{name}" for name in names]
    assert [asset["path"] for asset in assets] == [str(shop.folder / name) for name in names]
    assert buckets.objects() == {f"kling/{name}": content for name, content in zip(names, (PNG, JPG), strict=True)}
    assert await shop.due(event) == {"publish": True}
    assert (await shop.store.stats())["assets"] == 2


async def test_alone_in_the_storage_nothing_stays_here(shop: Workshop, storage: S3Storage, buckets: Buckets) -> None:
    shop.copies = Copies(storage=storage, alone=True)
    async with a_cdn(a=A_PNG) as cdn:
        event = await shop.succeeds(f"{cdn.url}/a")
        shop.start()
        [asset] = await shop.settled(event)

    name = f"kling/{event.task_id}/{event.id}/0.png"
    assert (asset.get("path"), asset["storage"], asset["bytes"]) == (None, f"s3://{BUCKET}/{name}", len(PNG))
    assert buckets.objects() == {name: PNG}
    assert list(shop.folder.iterdir()) == []


async def test_while_the_storage_is_down_routes_wait_and_then_have_the_file_alone(
    shop: Workshop, buckets: Buckets
) -> None:
    buckets.stop()
    async with a_cdn(a=A_PNG) as cdn:
        event = await shop.succeeds(f"{cdn.url}/a")
        shop.start()
        await shop.passes(event, HELD_BACK - timedelta(seconds=1), lambda: True)
        assert await shop.due(event) == {"publish": False}
        await shop.passes(event, HELD_BACK, lambda: True)
        [asset] = await shop.settled(event, Archiving.LATE)
        assert (shop.content(asset), asset.get("storage")) == (PNG, None)
        assert await shop.due(event) == {"publish": True}
        await shop.passes(event, WARN_AFTER, lambda: True)
        await shop.settled(event, Archiving.EXPIRING)

        await buckets.start()
        await shop.passes(event, WARN_AFTER + timedelta(hours=1), lambda: True)
        [asset] = await shop.settled(event)
        assert len(cdn.requests) == 1, "what is here is not fetched again"

    assert list(buckets.objects().values()) == [PNG]
    assert asset["storage"].startswith("s3://")
    alerts = await shop.alerts()
    assert [what for what, _ in alerts] == ["asset_lost", "asset_expiring", "asset_recovered"]
    assert "which did not come to the storage in time" in alerts[0][1]["message"]
    assert "cannot be reached" in alerts[0][1]["results"][0]["reason"]
    assert alerts[0][1]["results"][0]["path"] == asset["path"]


async def test_a_storage_that_hangs_keeps_nothing_from_coming_here(shop: Workshop) -> None:
    class Hanging:
        async def put(self, file: Path, name: str, asset: Asset) -> str:
            await asyncio.Event().wait()
            return f"{file} {name} {asset}"

    shop.copies = Copies(storage=Hanging())
    async with a_cdn(a=A_PNG) as cdn:
        for number in range(2 * AT_ONCE):
            await shop.succeeds(f"{cdn.url}/a?{number}")
        shop.start()
        await until(lambda: len([name for name in shop.files() if name.endswith("/0.png")]) == 2 * AT_ONCE)


@pytest.mark.parametrize("alone", [True, False])
async def test_what_the_storage_never_took_stays_here(
    shop: Workshop, storage: S3Storage, buckets: Buckets, *, alone: bool
) -> None:
    shop.copies = Copies(storage=storage, alone=alone)
    buckets.stop()
    async with a_cdn(a=A_PNG) as cdn:
        event = await shop.succeeds(f"{cdn.url}/a")
        shop.clock.advance(GIVE_UP_AFTER)
        shop.start()
        await shop.settled(event)

    [(what, told)] = await shop.alerts()
    assert (what, told["message"]) == (
        "asset_lost",
        "1 of 1 results cannot be brought to the storage and are not tried for any more.",
    )
    assert shop.content(told["results"][0]) == PNG


async def test_a_bucket_that_is_missing_is_said_and_once_it_is_made_all_goes_on(
    shop: Workshop, buckets: Buckets
) -> None:
    shutil.rmtree(buckets.root / BUCKET)
    async with a_cdn(a=A_PNG) as cdn:
        event = await shop.succeeds(f"{cdn.url}/a")
        shop.start()
        await shop.passes(event, HELD_BACK, lambda: True)
        await shop.settled(event, Archiving.LATE)
        (buckets.root / BUCKET).mkdir()
        await shop.passes(event, 3 * HELD_BACK, lambda: True)
        await shop.settled(event)

    [(_, told), _] = await shop.alerts()
    assert "(NoSuchBucket)" in told["results"][0]["reason"]
    assert "Make the bucket" in told["results"][0]["reason"]
    assert len(buckets.objects()) == 1


async def test_keys_that_are_not_taken_are_said_and_right_ones_go_on_where_it_was(
    shop: Workshop, storage: S3Storage, buckets: Buckets
) -> None:
    wrong = StorageSettings.model_construct(
        url=f"s3://{BUCKET}/kling",
        endpoint=buckets.url,
        region="us-east-1",
        access_key=Secret(ACCESS_KEY),
        secret_key=Secret("not-the-key"),
    )
    async with a_cdn(a=A_PNG) as cdn, opened(wrong, guard=OperatorGuard()) as refused:
        shop.copies = Copies(storage=refused)
        event = await shop.succeeds(f"{cdn.url}/a")
        shop.start()
        await shop.passes(event, HELD_BACK, lambda: True)
        await shop.settled(event, Archiving.LATE)
        await shop.end()

        shop.copies = Copies(storage=storage)
        shop.clock.advance(HELD_BACK)
        shop.start()
        await shop.settled(event)
        assert len(cdn.requests) == 1

    alerts = await shop.alerts()
    assert "(SignatureDoesNotMatch)" in alerts[0][1]["results"][0]["reason"]
    assert all(key not in json.dumps(alerts) for key in (ACCESS_KEY, SECRET_KEY, "not-the-key"))
    assert len(buckets.objects()) == 1


async def test_a_copy_whose_news_was_lost_is_made_again_and_is_one(
    shop: Workshop, storage: S3Storage, buckets: Buckets
) -> None:
    async with a_cdn(a=A_PNG) as cdn:
        event = await shop.succeeds(f"{cdn.url}/a")
        folder = shop.folder / str(event.task_id) / event.id
        folder.mkdir(parents=True)
        (folder / "0.png").write_bytes(PNG)
        (buckets.root / BUCKET / "kling" / str(event.task_id) / event.id).mkdir(parents=True)
        (buckets.root / BUCKET / "kling" / str(event.task_id) / event.id / "0.png").write_bytes(PNG)
        shop.copies = Copies(storage=storage, alone=True)
        shop.start()
        await shop.settled(event)

    assert cdn.connections == 0
    assert list(buckets.objects().values()) == [PNG]
    assert list(shop.folder.iterdir()) == []
