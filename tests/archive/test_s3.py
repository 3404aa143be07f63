"""A copy in the storage is whole, or there is none; what the store says against it is told, and no key with it."""

import asyncio
import contextlib
import hashlib
import ssl
from collections.abc import AsyncIterator
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from harness.http_peers import http_peer, never_respond, response
from harness.s3_server import ACCESS_KEY, BUCKET, SECRET_KEY, S3Server, an_s3_server, s3_proxy
from harness.waiting import wait_until

from receiver.archive.s3 import PART_SIZE, S3Storage, open_s3
from receiver.domain.errors import FileNotStored
from receiver.domain.model import Asset
from receiver.domain.secret import Secret
from receiver.net.http_client import AddressGuard
from receiver.net.ssrf_guard import OperatorGuard
from receiver.settings.storage import StorageSettings

NAME = "tsk_1/evt_1/0.mp4"


@pytest.fixture
async def s3(tmp_path: Path) -> AsyncIterator[S3Server]:
    async with an_s3_server(tmp_path) as s3:
        yield s3


@contextlib.asynccontextmanager
async def a_storage(endpoint: str, *, guard: AddressGuard | None = None, **changes: Any) -> AsyncIterator[S3Storage]:
    keys: dict[str, Any] = {"access_key": Secret(ACCESS_KEY), "secret_key": Secret(SECRET_KEY)}
    given = {"url": f"s3://{BUCKET}/kling", "endpoint": endpoint, "region": "us-east-1"} | keys | changes
    settings = StorageSettings.model_construct(**given)
    async with open_s3(settings, guard=guard or OperatorGuard()) as storage:
        yield storage


def a_file(folder: Path, size: int) -> tuple[Path, Asset]:
    file = folder / "0.mp4"
    content = hashlib.shake_128(str(size).encode()).digest(size)
    file.write_bytes(content)
    return file, Asset(
        number=0,
        url="https://cdn.example.com/0.mp4",
        path=str(file),
        sha256=hashlib.sha256(content).digest(),
        size=size,
        content_type="video/mp4",
    )


@pytest.mark.parametrize("size", [1, PART_SIZE, 2 * PART_SIZE + 7])
async def test_a_file_of_any_size_is_copied_whole(s3: S3Server, tmp_path: Path, size: int) -> None:
    file, asset = a_file(tmp_path, size)
    async with a_storage(s3.url) as storage:
        assert await storage.put(file, NAME, asset) == f"s3://{BUCKET}/kling/{NAME}"

    assert {key: hashlib.sha256(content).digest() for key, content in s3.objects().items()} == {
        f"kling/{NAME}": asset.sha256
    }
    assert ("initiate multipart upload" in s3.log()) == (size > PART_SIZE)


async def test_copying_a_file_twice_leaves_one_object(s3: S3Server, tmp_path: Path) -> None:
    file, asset = a_file(tmp_path, 1000)
    async with a_storage(s3.url, url=f"s3://{BUCKET}") as storage:
        assert await storage.put(file, NAME, asset) == await storage.put(file, NAME, asset) == f"s3://{BUCKET}/{NAME}"

    assert list(s3.objects()) == [NAME]


def tampered(body: bytes) -> bytes:
    return bytes(byte ^ 1 for byte in body[:1]) + body[1:]


@pytest.mark.parametrize("size", [1000, PART_SIZE + 1000])
async def test_a_file_that_is_altered_in_transit_is_not_stored(s3: S3Server, tmp_path: Path, size: int) -> None:
    file, asset = a_file(tmp_path, size)
    async with s3_proxy(s3.port, transform=tampered) as url, a_storage(url) as storage:
        with pytest.raises(FileNotStored, match="answered 400"):
            await storage.put(file, NAME, asset)

    assert s3.objects() == {}


@pytest.mark.parametrize("size", [1000, PART_SIZE + 1000])
async def test_a_file_that_changed_on_disk_is_not_copied(s3: S3Server, tmp_path: Path, size: int) -> None:
    file, asset = a_file(tmp_path, size)
    file.write_bytes(b"\0" * size)
    async with a_storage(s3.url) as storage:
        with pytest.raises(FileNotStored, match="has changed"):
            await storage.put(file, NAME, asset)
        assert s3.objects() == {}
        file.unlink()
        with pytest.raises(FileNotStored, match="could not be read: No such file"):
            await storage.put(file, NAME, asset)


@pytest.mark.parametrize(
    ("changes", "size", "message"),
    [
        (
            {"secret_key": Secret("wrong-secret-key")},
            10,
            "403 (SignatureDoesNotMatch) to PutObject. Check [archive.st",
        ),
        ({"access_key": Secret("wrong-access-key")}, 10, "403 (InvalidAccessKeyId) to PutObject. Check [archive.stora"),
        (
            {"url": "s3://no-such-bucket"},
            10,
            "404 (NoSuchBucket) to PutObject. Create the bucket, or correct [archive.",
        ),
        (
            {"url": "s3://no-such-bucket"},
            PART_SIZE + 10,
            "404 (NoSuchBucket) to CreateMultipartUpload. Create the bucket",
        ),
    ],
)
async def test_a_refusal_names_the_remedy_and_no_key(
    s3: S3Server, tmp_path: Path, changes: dict[str, Any], size: int, message: str
) -> None:
    file, asset = a_file(tmp_path, size)
    async with a_storage(s3.url, **changes) as storage:
        with pytest.raises(FileNotStored) as refused:
            await storage.put(file, NAME, asset)

    assert str(refused.value).startswith(f"127.0.0.1:{s3.port} answered {message}")
    assert not any(key in str(refused.value) for key in (ACCESS_KEY, SECRET_KEY, "wrong-"))


async def test_a_missing_or_non_s3_server_is_reported(tmp_path: Path) -> None:
    file, asset = a_file(tmp_path, 1000)

    async def fails(endpoint: str, message: str) -> None:
        async with a_storage(endpoint) as storage:
            with pytest.raises(FileNotStored, match=message):
                await storage.put(file, NAME, asset)

    await fails("http://127.0.0.1:1", "127.0.0.1:1 cannot be reached: Connection refused.")
    await fails("http://no-such-host.invalid", "no-such-host.invalid cannot be reached")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(Path(__file__).parents[1] / "data" / "host.example.pem")
    async with http_peer(response(200), tls=context) as peer:
        await fails(peer.url, f"TLS with 127.0.0.1:{peer.port} failed. Check its certificate")
    async with http_peer(b"not http\r\n\r\n") as peer:
        await fails(peer.url, f"127.0.0.1:{peer.port}")
    async with http_peer(response(500, b"<html>")) as peer:
        await fails(peer.url, f"127.0.0.1:{peer.port} answered 500")
    async with http_peer(response(301, location="http://169.254.169.254/")) as peer:
        await fails(peer.url, "169.254.169.254")


async def test_a_server_that_reads_nothing_ends_the_upload_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("receiver.archive.s3.PART_TIMEOUT", timedelta(seconds=0.3))
    file, asset = a_file(tmp_path, 1000)
    async with http_peer(never_respond, reads_requests=False) as peer, a_storage(peer.url) as storage:
        with pytest.raises(FileNotStored, match=r"did not transfer \d+ bytes within 0.3 s"):
            await storage.put(file, NAME, asset)


@pytest.mark.parametrize("endpoint", ["http://169.254.169.254", "http://[fe80::1]", "http://localtest.example:80"])
async def test_the_ssrf_guard_checks_every_dialled_address(tmp_path: Path, endpoint: str) -> None:
    file, asset = a_file(tmp_path, 1000)
    async with a_storage(endpoint) as storage:
        with pytest.raises(FileNotStored) as refused:
            await storage.put(file, NAME, asset)

    assert any(word in str(refused.value) for word in ("is never dialled", "cannot be reached"))


async def test_the_ssrf_guard_checks_the_host_name(s3: S3Server, tmp_path: Path) -> None:
    seen: list[tuple[str, Any]] = []

    class Watching(OperatorGuard):
        def check(self, host: str, addresses: Any) -> None:
            seen.append((host, *addresses))

    file, asset = a_file(tmp_path, 1000)
    async with a_storage(s3.url.replace("127.0.0.1", "localhost"), guard=Watching()) as storage:
        await storage.put(file, NAME, asset)

    assert ("localhost", ip_address("127.0.0.1")) in seen


async def test_aws_and_proxy_variables_of_the_environment_are_ignored(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "AWS_PROFILE": "no-such-profile",
        "AWS_SESSION_TOKEN": "somebody-elses",
        "AWS_ACCESS_KEY_ID": "somebody-elses",
        "AWS_SECRET_ACCESS_KEY": "somebody-elses",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
        "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:1",
        "AWS_REGION": "mars-north-1",
        "AWS_CONFIG_FILE": str(tmp_path / "none"),
        "HTTP_PROXY": "http://127.0.0.1:1",
        "http_proxy": "http://127.0.0.1:1",
        "ALL_PROXY": "http://127.0.0.1:1",
    }.items():
        monkeypatch.setenv(name, value)
    file, asset = a_file(tmp_path, 1000)
    async with a_storage(s3.url) as storage:
        await storage.put(file, NAME, asset)

    assert len(s3.objects()) == 1


async def test_an_interrupted_copy_leaves_no_parts(s3: S3Server, tmp_path: Path) -> None:
    file, asset = a_file(tmp_path, 3 * PART_SIZE)
    async with a_storage(s3.url) as storage:
        copying = asyncio.create_task(storage.put(file, NAME, asset))
        await wait_until(lambda: "put multipart upload" in s3.log())
        copying.cancel()
        with pytest.raises(asyncio.CancelledError):
            await copying

    assert s3.objects() == {}
    assert "abort multipart upload" in s3.log()


async def test_the_next_copy_removes_the_parts_of_a_killed_one(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, asset = a_file(tmp_path, 3 * PART_SIZE)
    async with a_storage(s3.url) as storage:
        await storage._s3.create_multipart_upload(Bucket=BUCKET, Key=f"kling/{NAME}.of-another")
        with monkeypatch.context() as killed:
            killed.setattr(storage, "_abort", skip_abort)
            copying = asyncio.create_task(storage.put(file, NAME, asset))
            await wait_until(lambda: "put multipart upload" in s3.log())
            copying.cancel()
            with pytest.raises(asyncio.CancelledError):
                await copying
        assert await open_uploads(storage) == [f"kling/{NAME}", f"kling/{NAME}.of-another"]

        await storage.put(file, NAME, asset)

        assert await open_uploads(storage) == [f"kling/{NAME}.of-another"]
    assert list(s3.objects()) == [f"kling/{NAME}"]


async def test_a_copy_needs_no_list_of_uploads(s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, asset = a_file(tmp_path, 2 * PART_SIZE)
    async with a_storage(s3.url) as storage:

        async def refused(**_: str) -> None:
            raise ClientError({"Error": {"Code": "AccessDenied"}}, "ListMultipartUploads")

        monkeypatch.setattr(storage._s3, "list_multipart_uploads", refused)
        await storage.put(file, NAME, asset)

    assert list(s3.objects()) == [f"kling/{NAME}"]


async def skip_abort(_: dict[str, str]) -> None:
    """As if killed."""


async def open_uploads(storage: S3Storage) -> list[str]:
    """Give the keys of the uploads that have not come to an end."""
    listed = await storage._s3.list_multipart_uploads(Bucket=BUCKET)
    return sorted(upload["Key"] for upload in listed.get("Uploads", ()))


async def test_parts_of_a_copied_file_are_read(s3: S3Server, tmp_path: Path) -> None:
    file, asset = a_file(tmp_path, 100_000)
    content = file.read_bytes()
    async with a_storage(s3.url) as storage:
        url = await storage.put(file, NAME, asset)

        parts = [
            await storage.read(url, start=start, stop=stop) for start, stop in [(0, 1), (5, 70_000), (70_000, 100_000)]
        ]

    assert parts == [content[0:1], content[5:70_000], content[70_000:]]


async def test_a_deleted_or_foreign_object_cannot_be_read(s3: S3Server) -> None:
    async with a_storage(s3.url) as storage:
        with pytest.raises(FileNotStored, match=r"NoSuchKey.*lifecycle rules"):
            await storage.read(f"s3://{BUCKET}/kling/{NAME}", start=0, stop=1)
        with pytest.raises(FileNotStored, match="'other'"):
            await storage.read(f"s3://other/kling/{NAME}", start=0, stop=1)
