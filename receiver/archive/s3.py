"""Copy results to an S3-compatible object store. Each part is sent with digests that the server verifies.

Only this module knows the S3 client, which is an optional extra. The client connects through the address guard. It
reads no AWS configuration files or variables, and no proxy from the environment.
"""

import asyncio
import contextlib
import hashlib
import os
import socket
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import msgspec

from receiver.domain.errors import AddressBlocked, FileNotStored
from receiver.domain.model import Asset
from receiver.net.http_client import AddressGuard
from receiver.settings.storage import StorageSettings

PART_SIZE = 8 * 1024 * 1024
"""The size of one part; larger files are sent in parts."""

PART_TIMEOUT = timedelta(minutes=2)
"""The time limit for one part."""

_CONNECT_SECONDS, _READ_SECONDS = 10, 60
_MAX_ATTEMPTS = 2  # per part, in quick succession; the archiver retries later with longer waits
_ABORT_SECONDS = 5
_CHECK_KEYS = "Check [archive.storage] access_key and secret_key, and their write permission."
_REMEDIES = {
    "NoSuchKey": "The object was deleted: check the bucket's lifecycle rules.",
    "NoSuchBucket": "Create the bucket, or correct [archive.storage] url.",
    "InvalidAccessKeyId": _CHECK_KEYS,
    "SignatureDoesNotMatch": _CHECK_KEYS,
    "AccessDenied": _CHECK_KEYS,
    "RequestTimeTooSkewed": "Check this machine's clock.",
    "AuthorizationHeaderMalformed": "Check [archive.storage] region.",
    "PermanentRedirect": "Check [archive.storage] region and endpoint.",
}


@contextlib.asynccontextmanager
async def open_s3(settings: StorageSettings, *, guard: AddressGuard) -> AsyncIterator["S3Storage"]:
    """Open the object store. Nothing is sent before the first file."""
    from aiobotocore.config import AioConfig  # noqa: PLC0415 -- an extra, and slow to load
    from aiobotocore.session import AioSession  # noqa: PLC0415 -- as above
    from botocore.handlers import add_expect_header  # noqa: PLC0415 -- as above

    endpoint = settings.endpoint or f"https://s3.{settings.region}.amazonaws.com"
    unread = {"profile": None, "config_file": os.devnull, "credentials_file": os.devnull}
    session = AioSession(session_vars={name: (None, None, value, None) for name, value in unread.items()})
    client = session.create_client(
        "s3",
        endpoint_url=endpoint,
        region_name=settings.region,
        aws_access_key_id=settings.access_key and settings.access_key.reveal(),
        aws_secret_access_key=settings.secret_key and settings.secret_key.reveal(),
        config=AioConfig(
            signature_version="s3v4",
            s3={"addressing_style": "path"},
            proxies={},
            connect_timeout=_CONNECT_SECONDS,
            read_timeout=_READ_SECONDS,
            retries={"mode": "standard", "total_max_attempts": _MAX_ATTEMPTS},
            request_checksum_calculation="when_required",  # we send our own digests
            response_checksum_validation="when_required",
            connector_args={"socket_factory": _GuardedSocketFactory(guard, urlsplit(endpoint).hostname or "")},
        ),
    )
    async with client as s3:
        # "Expect: 100-continue" would stall where a proxy does not support it, and a part is small enough without.
        s3.meta.events.unregister("before-call.s3", add_expect_header)
        yield S3Storage(s3, settings, peer=urlsplit(endpoint).netloc)


class _GuardedSocketFactory(msgspec.Struct, frozen=True):
    """Makes sockets for connections, after the guard has approved the address."""

    guard: AddressGuard
    host: str

    def __call__(self, found: tuple[Any, ...]) -> socket.socket:
        family, kind, protocol, _, address = found
        self.guard.check(self.host, [ip_address(address[0])])
        return socket.socket(family, kind, protocol)


class S3Storage:
    """Stores files in a bucket, under names that its caller gives."""

    def __init__(self, s3: Any, settings: StorageSettings, *, peer: str) -> None:  # noqa: ANN401 -- it has no types
        self._s3 = s3
        self._bucket = settings.bucket
        self._prefix = f"{settings.prefix}/" if settings.prefix else ""
        self._peer = peer

    async def put(self, file: Path, name: str, asset: Asset) -> str:
        """Copy *file*, described by *asset*, to *name* and return its URL. An existing object is replaced.

        Raises FileNotStored.
        """
        key = self._prefix + name
        target = {"Key": key, "ContentType": asset.content_type}
        with _translate_errors(self._peer):
            if asset.size <= PART_SIZE:
                content, digests = await asyncio.to_thread(_read_whole, file, asset.sha256)
                await self._call("put_object", **target, Body=content, **digests)
            else:
                await self._put_parts(file, target, asset)
        return f"s3://{self._bucket}/{key}"

    async def read(self, storage: str, *, start: int, stop: int) -> bytes:
        """Return the bytes from *start* to before *stop* of the object at *storage*, which `put` returned.

        Each call reads its whole answer, so a slow reader holds no connection to the object store.
        Raises FileNotStored.
        """
        bucket, _, key = storage.removeprefix("s3://").partition("/")
        if bucket != self._bucket:
            raise FileNotStored(
                f"The file is in the bucket {bucket!r}, but [archive.storage] url names {self._bucket!r}."
            )
        with _translate_errors(self._peer):
            answer = await self._call("get_object", Key=key, Range=f"bytes={start}-{stop - 1}")
            async with asyncio.timeout(PART_TIMEOUT.total_seconds()), answer["Body"] as body:
                content = bytearray()
                while piece := await body.read(stop - start - len(content)):
                    content += piece
        if len(content) != stop - start:
            raise FileNotStored(f"{self._peer} sent {len(content)} bytes instead of {stop - start}.")
        return bytes(content)

    async def remove(self, url: str) -> None:
        """Remove the object at *url*, which ``put`` returned. An object that does not exist is no error.

        Raises FileNotStored.
        """
        place = f"s3://{self._bucket}/"
        if not url.startswith(place):
            raise FileNotStored(f"{url} is not in the bucket {self._bucket}.", remedy="Remove it there.")
        with _translate_errors(self._peer):
            await self._call("delete_object", Key=url.removeprefix(place))

    async def _put_parts(self, file: Path, target: dict[str, str], asset: Asset) -> None:
        await self._abort_stale_uploads(target["Key"])
        begun = await self._call("create_multipart_upload", **target, ChecksumAlgorithm="SHA256")
        upload = {"Key": target["Key"], "UploadId": begun["UploadId"]}
        try:
            parts = await self._send_parts(file, upload, asset)
            await self._call("complete_multipart_upload", **upload, MultipartUpload={"Parts": parts})
        except BaseException:
            await self._abort(upload)
            raise

    async def _send_parts(self, file: Path, upload: dict[str, str], asset: Asset) -> list[dict[str, Any]]:
        """Send a file in parts and return the list of parts for the final request."""
        whole = hashlib.sha256()
        parts: list[dict[str, Any]] = []
        with await asyncio.to_thread(file.open, "rb") as content:
            while read := await asyncio.to_thread(_read_part, content, whole):
                (piece, digests), number = read, len(parts) + 1
                kept = await self._call("upload_part", **upload, PartNumber=number, Body=piece, **digests)
                checksum = {"ChecksumSHA256": digests["ChecksumSHA256"]}
                parts.append({"PartNumber": number, "ETag": kept["ETag"], **checksum})
        if whole.digest() != asset.sha256:
            raise _file_changed()
        return parts

    async def _abort_stale_uploads(self, key: str) -> None:
        """Abort uploads that a killed process left: their invisible parts would cost money.

        Only this service writes to these names. Without permission to list uploads, nothing is done.
        """
        with _best_effort():
            async with asyncio.timeout(_ABORT_SECONDS):
                begun = await self._s3.list_multipart_uploads(Bucket=self._bucket, Prefix=key)
                for upload in begun.get("Uploads", ()):
                    if upload["Key"] == key:
                        await self._abort({"Key": key, "UploadId": upload["UploadId"]})

    async def _abort(self, upload: dict[str, str]) -> None:
        """Abort an unfinished upload, if the object store can be reached."""
        with _best_effort():
            async with asyncio.timeout(_ABORT_SECONDS):
                await self._s3.abort_multipart_upload(Bucket=self._bucket, **upload)

    async def _call(self, operation: str, **arguments: Any) -> dict[str, Any]:  # noqa: ANN401 -- it has no types
        async with asyncio.timeout(PART_TIMEOUT.total_seconds()):
            answer: dict[str, Any] = await getattr(self._s3, operation)(Bucket=self._bucket, **arguments)
            return answer


@contextlib.contextmanager
def _best_effort() -> Iterator[None]:
    """Ignore errors and timeouts of the object store in the block."""
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415 -- an extra

    with contextlib.suppress(BotoCoreError, ClientError, TimeoutError):
        yield


def _read_whole(file: Path, sha256: bytes) -> tuple[bytes, dict[str, str]]:
    content = file.read_bytes()
    if hashlib.sha256(content).digest() != sha256:
        raise _file_changed()
    return content, _digests(content, sha256)


def _read_part(content: BinaryIO, hasher: "hashlib._Hash") -> tuple[bytes, dict[str, str]] | None:
    piece = content.read(PART_SIZE)
    hasher.update(piece)
    return (piece, _digests(piece, hashlib.sha256(piece).digest())) if piece else None


def _file_changed() -> FileNotStored:
    return FileNotStored(
        "The file has changed since it was downloaded.", remedy="Check which program writes into the archive folder."
    )


def _digests(content: bytes, sha256: bytes) -> dict[str, str]:
    """Return the digests to verify: SHA-256, and MD5 for servers that know nothing newer."""
    old = hashlib.md5(content, usedforsecurity=False).digest()
    return {"ChecksumSHA256": b64encode(sha256).decode(), "ContentMD5": b64encode(old).decode()}


@contextlib.contextmanager
def _translate_errors(peer: str) -> Iterator[None]:
    """Translate client errors into our own words: a server's message may contain secrets."""
    from botocore import exceptions as foreign  # noqa: PLC0415 -- an extra

    try:
        yield
    except foreign.ClientError as exc:
        code = str(exc.response.get("Error", {}).get("Code", ""))
        status = exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", "an error")
        word = f" ({code})" if code.isascii() and code.isalnum() and code != str(status) else ""
        raise FileNotStored(
            f"{peer} answered {status}{word} to {exc.operation_name}.", remedy=_REMEDIES.get(code, "")
        ) from exc
    except foreign.SSLError as exc:
        remedy = "Check its certificate and [archive.storage] endpoint; AWS_CA_BUNDLE may name a private authority."
        raise FileNotStored(f"TLS with {peer} failed.", remedy=remedy) from exc
    except (foreign.EndpointConnectionError, foreign.ConnectTimeoutError) as exc:
        remedy = "Check [archive.storage] endpoint, and that the object store is up."
        raise FileNotStored(f"{peer} cannot be reached{_cause(exc.kwargs.get('error'))}.", remedy=remedy) from exc
    except foreign.HTTPClientError as exc:
        refused = exc.kwargs.get("error")
        raise FileNotStored(
            str(refused) if isinstance(refused, AddressBlocked) else f"{peer} sent an invalid answer."
        ) from exc
    except foreign.BotoCoreError as exc:
        raise FileNotStored(f"The copy to {peer} failed: {type(exc).__name__}.") from exc
    except TimeoutError as exc:
        raise FileNotStored(
            f"{peer} did not transfer {PART_SIZE} bytes within {PART_TIMEOUT.total_seconds():g} s."
        ) from exc
    except OSError as exc:
        raise FileNotStored(
            f"The file could not be read: {exc.strerror or exc}.", remedy="Check [archive] dir."
        ) from exc


def _cause(error: object) -> str:
    """Return the system's reason, if there is one."""
    if not isinstance(error, OSError) or error.errno is None:
        return ""
    return f": {os.strerror(error.errno) if error.errno > 0 else error.strerror}"  # negative: the resolver's
