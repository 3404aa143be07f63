"""A file comes whole, or what came of it stays and the rest is asked for; nothing unasked for is taken."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from ipaddress import ip_network

import pytest
from harness.http_peers import Answer, response, sending, serving

from receiver.domain.errors import DialRefused, NoAnswer, NotSent
from receiver.net.download import Answered, Arrived, Beginning, Ending, Pace, TooLarge, download
from receiver.net.http_client import Outbound
from receiver.net.ssrf_guard import PublicGuard

FILE = bytes(range(256)) * 40
SOON = timedelta(seconds=5)


@dataclass(slots=True)
class Shelf:
    """Keeps a file in memory."""

    content: bytearray = field(default_factory=bytearray)
    validator: str | None = None
    begun: list[Beginning] = field(default_factory=list)

    @property
    def offset(self) -> int:
        return len(self.content)

    async def begin(self, beginning: Beginning) -> None:
        self.begun.append(beginning)
        self.validator = beginning.validator
        del self.content[beginning.offset :]

    async def write(self, piece: bytes) -> None:
        self.content += piece


@pytest.fixture
async def outbound() -> AsyncIterator[Outbound]:
    outbound = Outbound(user_agent="kling-receiver/test")
    yield outbound
    await outbound.aclose()


async def fetch(
    outbound: Outbound, url: str, shelf: Shelf, *, limit: int = 1 << 20, pace: Pace | None = None
) -> Ending:
    return await download(outbound, url, to=shelf, total=SOON, limit=limit, pace=pace or Pace())


def cut_short(body: bytes, *, after: int, **headers: str) -> Answer:
    """Promise a body and break off in the middle of it."""
    whole = response(200, body, **headers)
    return sending(whole[: len(whole) - len(body) + after], then_close=True)


async def test_a_file_comes_with_its_type_and_its_validator(outbound: Outbound) -> None:
    shelf = Shelf()
    async with serving(response(200, FILE, content_type="Image/PNG; x=y", etag='"v1"')) as peer:
        assert await fetch(outbound, peer.url, shelf) == Arrived(size=len(FILE))

    assert bytes(shelf.content) == FILE
    assert shelf.begun == [Beginning(offset=0, size=len(FILE), content_type="image/png", validator='"v1"')]
    assert "range" not in peer.requests[0].headers


async def test_what_broke_off_stays_and_the_rest_is_asked_for(outbound: Outbound) -> None:
    shelf = Shelf()
    async with serving(cut_short(FILE, after=100, etag='"v1"')) as peer:
        with pytest.raises(NoAnswer):
            await fetch(outbound, peer.url, shelf)
        assert shelf.offset == 100

        rest = f"bytes 100-{len(FILE) - 1}/{len(FILE)}"
        peer.answer = sending(response(206, FILE[100:], content_range=rest, etag='"v1"'))
        assert await fetch(outbound, peer.url, shelf) == Arrived(size=len(FILE))

    assert bytes(shelf.content) == FILE
    asked = peer.requests[1].headers
    assert (asked["range"], asked["if-range"]) == ("bytes=100-", '"v1"')


async def test_a_file_that_changed_meanwhile_is_taken_anew(outbound: Outbound) -> None:
    shelf = Shelf(content=bytearray(b"of the old one"), validator='"v1"')
    async with serving(response(200, FILE, etag='"v2"')) as peer:
        assert await fetch(outbound, peer.url, shelf) == Arrived(size=len(FILE))

    assert bytes(shelf.content) == FILE
    assert shelf.validator == '"v2"'


@pytest.mark.parametrize("tag", ["", 'W/"weak"'])
async def test_without_a_validator_nothing_is_taken_up_again(outbound: Outbound, tag: str) -> None:
    shelf = Shelf()
    headers = {"etag": tag} if tag else {}
    async with serving(cut_short(FILE, after=100, **headers)) as peer:
        with pytest.raises(NoAnswer):
            await fetch(outbound, peer.url, shelf)
        peer.answer = sending(response(200, FILE))
        await fetch(outbound, peer.url, shelf)

    assert "range" not in peer.requests[1].headers
    assert bytes(shelf.content) == FILE


async def test_a_date_is_a_validator_too(outbound: Outbound) -> None:
    shelf = Shelf(content=bytearray(FILE[:10]), validator="Sun, 22 Nov 2026 10:00:00 GMT")
    rest = response(206, FILE[10:], content_range=f"bytes 10-{len(FILE) - 1}/*")
    async with serving(rest) as peer:
        assert await fetch(outbound, peer.url, shelf) == Arrived(size=len(FILE))

    assert peer.requests[0].headers["if-range"] == "Sun, 22 Nov 2026 10:00:00 GMT"
    assert shelf.begun[0].validator == "Sun, 22 Nov 2026 10:00:00 GMT"


@pytest.mark.parametrize("part", ["bytes 0-10/100", "bytes 99-10", "items 5-9/10", ""])
async def test_another_part_than_was_asked_for_is_not_taken(outbound: Outbound, part: str) -> None:
    shelf = Shelf(content=bytearray(b"12345"), validator='"v1"')
    async with serving(response(206, b"67890", content_range=part)) as peer:
        with pytest.raises(NoAnswer, match="another part"):
            await fetch(outbound, peer.url, shelf)

    assert bytes(shelf.content) == b"12345"


async def test_a_part_that_nobody_asked_for_is_not_taken(outbound: Outbound) -> None:
    shelf = Shelf()
    async with serving(response(206, b"x", content_range="bytes 0-0/100")) as peer:
        with pytest.raises(NoAnswer, match="another part"):
            await fetch(outbound, peer.url, shelf)


async def test_when_all_is_there_already_nothing_more_is_wanted(outbound: Outbound) -> None:
    shelf = Shelf(content=bytearray(FILE), validator='"v1"')
    async with serving(response(416, content_range=f"bytes */{len(FILE)}")) as peer:
        assert await fetch(outbound, peer.url, shelf) == Arrived(size=len(FILE))

        peer.answer = sending(response(416, content_range="bytes */7"))
        assert await fetch(outbound, peer.url, shelf) == Answered(peer=f"127.0.0.1:{peer.port}", status=416)


async def test_what_is_too_large_is_not_begun(outbound: Outbound) -> None:
    shelf = Shelf()
    async with serving(response(200, FILE)) as peer:
        assert await fetch(outbound, peer.url, shelf, limit=100) == TooLarge(peer=f"127.0.0.1:{peer.port}")

    assert shelf.begun == []


async def test_what_hides_that_it_is_too_large_is_cut_off(outbound: Outbound) -> None:
    async def without_end(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"400\r\n" + bytes(0x400) + b"\r\n")
            await writer.drain()

    shelf = Shelf()
    async with serving(without_end) as peer:
        assert await fetch(outbound, peer.url, shelf, limit=100_000) == TooLarge(peer=f"127.0.0.1:{peer.port}")

    assert shelf.offset <= 100_000


async def test_a_trickle_is_ended_and_what_came_of_it_stays(outbound: Outbound) -> None:
    async def dripping(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'HTTP/1.1 200 OK\r\ncontent-length: 10000\r\netag: "v1"\r\n\r\n')
        while True:
            writer.write(b".")
            await writer.drain()
            await asyncio.sleep(0.01)

    shelf = Shelf()
    async with serving(dripping) as peer:
        with pytest.raises(NoAnswer, match="less than 1000 bytes"):
            await fetch(outbound, peer.url, shelf, pace=Pace(least=1000, seconds=0.2))

    assert shelf.offset > 0


async def test_a_slow_but_steady_file_comes_through(outbound: Outbound) -> None:
    async def steady(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
        for _number in range(100):
            writer.write(bytes(10))
            await writer.drain()
            await asyncio.sleep(0.01)

    shelf = Shelf()
    async with serving(steady) as peer:
        assert await fetch(outbound, peer.url, shelf, pace=Pace(least=10, seconds=0.9)) == Arrived(size=1000)


async def test_all_of_it_has_its_time(outbound: Outbound) -> None:
    async def endless(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\n")
        while True:
            writer.write(bytes(1000))
            await writer.drain()
            await asyncio.sleep(0.01)

    async with serving(endless) as peer:
        with pytest.raises(NoAnswer, match="did not finish it"):
            await download(outbound, peer.url, to=Shelf(), total=timedelta(seconds=0.2), limit=1 << 30)


async def test_an_encoded_file_is_no_file(outbound: Outbound) -> None:
    async with serving(response(200, FILE, content_encoding="gzip")) as peer:
        with pytest.raises(NoAnswer, match="coding"):
            await fetch(outbound, peer.url, Shelf())


async def test_a_status_is_told_as_it_is(outbound: Outbound) -> None:
    async with serving(response(403, b"<Error>expired</Error>")) as peer:
        assert await fetch(outbound, peer.url, Shelf()) == Answered(peer=f"127.0.0.1:{peer.port}", status=403)


async def test_redirects_are_followed_with_the_range_that_is_wanted(outbound: Outbound) -> None:
    shelf = Shelf(content=bytearray(FILE[:10]), validator='"v1"')
    rest = response(206, FILE[10:], content_range=f"bytes 10-{len(FILE) - 1}/{len(FILE)}")
    async with serving(rest) as other, serving(response(302, location=f"{other.url}/there?a=b")) as peer:
        assert await fetch(outbound, peer.url, shelf) == Arrived(size=len(FILE))

    assert other.requests[0].line == "GET /there?a=b HTTP/1.1"
    assert other.requests[0].headers["range"] == "bytes=10-"


async def test_a_redirect_may_be_relative_and_a_ring_of_them_ends(outbound: Outbound) -> None:
    async with serving(response(307, location="/again")) as peer:
        with pytest.raises(NoAnswer, match="More than 3 redirects"):
            await fetch(outbound, peer.url, Shelf())

    assert [request.line.split()[1] for request in peer.requests] == ["/", "/again", "/again", "/again"]


@pytest.mark.parametrize("place", ["file:///etc/passwd", "ftp://example.com/x", "http://[::1", "gopher:x"])
async def test_a_redirect_leads_nowhere_but_to_http(outbound: Outbound, place: str) -> None:
    async with serving(response(302, location=place)) as peer:
        with pytest.raises((NoAnswer, NotSent)):
            await fetch(outbound, peer.url, Shelf())


async def test_the_guard_sees_where_a_redirect_leads() -> None:
    guarded = Outbound(user_agent="kling-receiver/test", guard=PublicGuard([ip_network("127.0.0.1/32")]))
    try:
        for place in ("http://127.0.0.2:1/", "http://169.254.169.254/latest/", "http://10.0.0.1/", "http://[::1]:1/"):
            async with serving(response(302, location=place)) as peer:
                with pytest.raises(DialRefused):
                    await fetch(guarded, peer.url, Shelf())
    finally:
        await guarded.aclose()


async def test_what_the_landing_raises_is_raised(outbound: Outbound) -> None:
    class Full(Shelf):
        async def write(self, piece: bytes) -> None:
            raise OSError(28, f"No space left for {len(piece)}")

    async with serving(response(200, FILE)) as peer:
        with pytest.raises(OSError, match="No space left"):
            await fetch(outbound, peer.url, Full())
