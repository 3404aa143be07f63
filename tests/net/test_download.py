"""A file comes whole, or what came of it stays and the rest is asked for; nothing unasked for is taken."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from ipaddress import ip_network

import pytest
from harness.http_peers import Handler, http_peer, respond_with, response

from receiver.domain.errors import AddressBlocked, NoResponse, RequestNotSent
from receiver.net.download import Completed, ContentInfo, DownloadResult, ErrorStatus, MinimumRate, TooLarge, download
from receiver.net.http_client import HttpClient
from receiver.net.ssrf_guard import PublicGuard

FILE = bytes(range(256)) * 40
TIMEOUT = timedelta(seconds=60)


@dataclass(slots=True)
class MemoryTarget:
    """Keeps a file in memory."""

    content: bytearray = field(default_factory=bytearray)
    validator: str | None = None
    starts: list[ContentInfo] = field(default_factory=list)

    @property
    def offset(self) -> int:
        return len(self.content)

    async def start(self, info: ContentInfo) -> None:
        self.starts.append(info)
        self.validator = info.validator
        del self.content[info.offset :]

    async def write(self, chunk: bytes) -> None:
        self.content += chunk


@pytest.fixture
async def http_client() -> AsyncIterator[HttpClient]:
    http_client = HttpClient(user_agent="kling-receiver/test")
    yield http_client
    await http_client.aclose()


async def fetch(
    http_client: HttpClient, url: str, target: MemoryTarget, *, limit: int = 1 << 20, pace: MinimumRate | None = None
) -> DownloadResult:
    return await download(
        http_client, url, target=target, time_limit=TIMEOUT, max_bytes=limit, minimum_rate=pace or MinimumRate()
    )


def truncated_response(body: bytes, *, after: int, **headers: str) -> Handler:
    """Promise a body and break off in the middle of it."""
    whole = response(200, body, **headers)
    return respond_with(whole[: len(whole) - len(body) + after], then_close=True)


async def test_a_download_has_its_type_and_its_validator(http_client: HttpClient) -> None:
    target = MemoryTarget()
    async with http_peer(response(200, FILE, content_type="Image/PNG; x=y", etag='"v1"')) as peer:
        assert await fetch(http_client, peer.url, target) == Completed(size=len(FILE))

    assert bytes(target.content) == FILE
    assert target.starts == [ContentInfo(offset=0, size=len(FILE), content_type="image/png", validator='"v1"')]
    assert "range" not in peer.requests[0].headers


async def test_an_interrupted_download_requests_only_the_rest(http_client: HttpClient) -> None:
    target = MemoryTarget()
    async with http_peer(truncated_response(FILE, after=100, etag='"v1"')) as peer:
        with pytest.raises(NoResponse):
            await fetch(http_client, peer.url, target)
        assert target.offset == 100

        rest = f"bytes 100-{len(FILE) - 1}/{len(FILE)}"
        peer.handler = respond_with(response(206, FILE[100:], content_range=rest, etag='"v1"'))
        assert await fetch(http_client, peer.url, target) == Completed(size=len(FILE))

    assert bytes(target.content) == FILE
    headers = peer.requests[1].headers
    assert (headers["range"], headers["if-range"]) == ("bytes=100-", '"v1"')


async def test_a_changed_file_is_downloaded_from_the_start(http_client: HttpClient) -> None:
    target = MemoryTarget(content=bytearray(b"of the old one"), validator='"v1"')
    async with http_peer(response(200, FILE, etag='"v2"')) as peer:
        assert await fetch(http_client, peer.url, target) == Completed(size=len(FILE))

    assert bytes(target.content) == FILE
    assert target.validator == '"v2"'


@pytest.mark.parametrize("old", ['"v1"', "Sun, 22 Nov 2026 10:00:00 GMT"])
async def test_parts_of_a_changed_file_are_never_joined_to_the_old_one(http_client: HttpClient, old: str) -> None:
    target = MemoryTarget(content=bytearray(b"of the old one"), validator=old)

    async def ignore_if_range(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        rest = f"bytes {target.offset}-{len(FILE) - 1}/{len(FILE)}"
        part = response(206, FILE[target.offset :], content_range=rest, etag='"v2"')
        writer.write(part if b"range:" in head else response(200, FILE, etag='"v2"'))
        await writer.drain()

    async with http_peer(ignore_if_range, reads_requests=False) as peer:
        assert await fetch(http_client, peer.url, target) == Completed(size=len(FILE))

    assert bytes(target.content) == FILE


@pytest.mark.parametrize("tag", ["", 'W/"weak"'])
async def test_without_a_validator_no_download_is_resumed(http_client: HttpClient, tag: str) -> None:
    target = MemoryTarget()
    headers = {"etag": tag} if tag else {}
    async with http_peer(truncated_response(FILE, after=100, **headers)) as peer:
        with pytest.raises(NoResponse):
            await fetch(http_client, peer.url, target)
        peer.handler = respond_with(response(200, FILE))
        await fetch(http_client, peer.url, target)

    assert "range" not in peer.requests[1].headers
    assert bytes(target.content) == FILE


async def test_a_date_is_a_validator_too(http_client: HttpClient) -> None:
    target = MemoryTarget(content=bytearray(FILE[:10]), validator="Sun, 22 Nov 2026 10:00:00 GMT")
    rest = response(206, FILE[10:], content_range=f"bytes 10-{len(FILE) - 1}/*")
    async with http_peer(rest) as peer:
        assert await fetch(http_client, peer.url, target) == Completed(size=len(FILE))

    assert peer.requests[0].headers["if-range"] == "Sun, 22 Nov 2026 10:00:00 GMT"
    assert target.starts[0].validator == "Sun, 22 Nov 2026 10:00:00 GMT"


@pytest.mark.parametrize("part", ["bytes 0-10/100", "bytes 99-10", "items 5-9/10", ""])
async def test_a_part_that_was_not_requested_is_refused(http_client: HttpClient, part: str) -> None:
    target = MemoryTarget(content=bytearray(b"12345"), validator='"v1"')
    async with http_peer(response(206, b"67890", content_range=part)) as peer:
        with pytest.raises(NoResponse, match="part of the file that was not requested"):
            await fetch(http_client, peer.url, target)

    assert bytes(target.content) == b"12345"


async def test_a_part_without_a_range_request_is_refused(http_client: HttpClient) -> None:
    target = MemoryTarget()
    async with http_peer(response(206, b"x", content_range="bytes 0-0/100")) as peer:
        with pytest.raises(NoResponse, match="part of the file that was not requested"):
            await fetch(http_client, peer.url, target)


async def test_a_416_for_a_complete_file_completes_the_download(http_client: HttpClient) -> None:
    target = MemoryTarget(content=bytearray(FILE), validator='"v1"')
    async with http_peer(response(416, content_range=f"bytes */{len(FILE)}")) as peer:
        assert await fetch(http_client, peer.url, target) == Completed(size=len(FILE))

        peer.handler = respond_with(response(416, content_range="bytes */7"))
        assert await fetch(http_client, peer.url, target) == ErrorStatus(peer=f"127.0.0.1:{peer.port}", status=416)


async def test_a_file_with_a_declared_size_over_the_limit_is_not_started(http_client: HttpClient) -> None:
    target = MemoryTarget()
    async with http_peer(response(200, FILE)) as peer:
        assert await fetch(http_client, peer.url, target, limit=100) == TooLarge(peer=f"127.0.0.1:{peer.port}")

    assert target.starts == []


async def test_a_file_of_undeclared_size_ends_at_the_limit(http_client: HttpClient) -> None:
    async def without_end(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"400\r\n" + bytes(0x400) + b"\r\n")
            await writer.drain()

    target = MemoryTarget()
    async with http_peer(without_end) as peer:
        assert await fetch(http_client, peer.url, target, limit=100_000) == TooLarge(peer=f"127.0.0.1:{peer.port}")

    assert target.offset <= 100_000


async def test_a_download_below_the_minimum_rate_ends_and_keeps_its_bytes(http_client: HttpClient) -> None:
    async def dripping(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'HTTP/1.1 200 OK\r\ncontent-length: 10000\r\netag: "v1"\r\n\r\n')
        while True:
            writer.write(b".")
            await writer.drain()
            await asyncio.sleep(0.01)

    target = MemoryTarget()
    async with http_peer(dripping) as peer:
        with pytest.raises(NoResponse, match="less than 1000 bytes"):
            await fetch(http_client, peer.url, target, pace=MinimumRate(min_bytes=1000, seconds=0.2))

    assert target.offset > 0


async def test_a_slow_download_above_the_minimum_rate_completes(http_client: HttpClient) -> None:
    async def steady(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
        for _number in range(100):
            writer.write(bytes(10))
            await writer.drain()
            await asyncio.sleep(0.01)

    target = MemoryTarget()
    async with http_peer(steady) as peer:
        assert await fetch(http_client, peer.url, target, pace=MinimumRate(min_bytes=10, seconds=0.9)) == Completed(
            size=1000
        )


async def test_a_download_has_a_time_limit(http_client: HttpClient) -> None:
    async def endless(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\n")
        while True:
            writer.write(bytes(1000))
            await writer.drain()
            await asyncio.sleep(0.01)

    async with http_peer(endless) as peer:
        with pytest.raises(NoResponse, match="did not finish it"):
            await download(
                http_client, peer.url, target=MemoryTarget(), time_limit=timedelta(seconds=0.2), max_bytes=1 << 30
            )


async def test_a_file_with_a_content_coding_is_refused(http_client: HttpClient) -> None:
    async with http_peer(response(200, FILE, content_encoding="gzip")) as peer:
        with pytest.raises(NoResponse, match="coding"):
            await fetch(http_client, peer.url, MemoryTarget())


async def test_an_error_status_is_returned(http_client: HttpClient) -> None:
    async with http_peer(response(403, b"<Error>expired</Error>")) as peer:
        assert await fetch(http_client, peer.url, MemoryTarget()) == ErrorStatus(
            peer=f"127.0.0.1:{peer.port}", status=403
        )


async def test_redirects_are_followed_with_the_requested_range(http_client: HttpClient) -> None:
    target = MemoryTarget(content=bytearray(FILE[:10]), validator='"v1"')
    rest = response(206, FILE[10:], content_range=f"bytes 10-{len(FILE) - 1}/{len(FILE)}")
    async with http_peer(rest) as other, http_peer(response(302, location=f"{other.url}/there?a=b")) as peer:
        assert await fetch(http_client, peer.url, target) == Completed(size=len(FILE))

    assert other.requests[0].line == "GET /there?a=b HTTP/1.1"
    assert other.requests[0].headers["range"] == "bytes=10-"


async def test_relative_redirects_are_followed_and_loops_end(http_client: HttpClient) -> None:
    async with http_peer(response(307, location="/again")) as peer:
        with pytest.raises(NoResponse, match="more than 3 redirects"):
            await fetch(http_client, peer.url, MemoryTarget())

    assert [request.line.split()[1] for request in peer.requests] == ["/", "/again", "/again", "/again"]


@pytest.mark.parametrize("place", ["file:///etc/passwd", "ftp://example.com/x", "http://[::1", "gopher:x"])
async def test_a_redirect_to_another_scheme_than_http_is_refused(http_client: HttpClient, place: str) -> None:
    async with http_peer(response(302, location=place)) as peer:
        with pytest.raises((NoResponse, RequestNotSent)):
            await fetch(http_client, peer.url, MemoryTarget())


async def test_the_ssrf_guard_checks_the_target_of_a_redirect() -> None:
    guarded = HttpClient(user_agent="kling-receiver/test", guard=PublicGuard([ip_network("127.0.0.1/32")]))
    try:
        for place in ("http://127.0.0.2:1/", "http://169.254.169.254/latest/", "http://10.0.0.1/", "http://[::1]:1/"):
            async with http_peer(response(302, location=place)) as peer:
                with pytest.raises(AddressBlocked):
                    await fetch(guarded, peer.url, MemoryTarget())
    finally:
        await guarded.aclose()


async def test_an_error_of_the_download_target_is_raised(http_client: HttpClient) -> None:
    class Full(MemoryTarget):
        async def write(self, chunk: bytes) -> None:
            raise OSError(28, f"No space left for {len(chunk)}")

    async with http_peer(response(200, FILE)) as peer:
        with pytest.raises(OSError, match="No space left"):
            await fetch(http_client, peer.url, Full())
