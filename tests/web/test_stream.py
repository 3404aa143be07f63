"""Events as they happen: nothing missed, nothing twice, no end but the listener's or ours."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from harness.support import until
from harness.web_app import TOKEN, House

from receiver.domain.model import Event, Verified
from receiver.web.resources.stream import HEARTBEAT


async def happen(
    house: House, count: int = 1, *, type_: str = "alert.test", body: bytes = b"", at: str = ""
) -> list[str]:
    """Commit events, as anybody does: first the store, then the bell."""
    events = [
        Event(
            id=at or house.ids.new("evt"),
            type=type_,
            envelope=b'{"type":"%s","data":{"made":"up"}}' % type_.encode(),
            body=body,
            verified=Verified.NONE,
            created_at=house.clock.now(),
        )
        for _ in range(count)
    ]
    await house.store.record(events, [])
    house.bells.events.ring()
    return [event.id for event in events]


@asynccontextmanager
async def listening(house: House, query: str = "", **headers: str) -> AsyncIterator[asyncio.StreamReader]:
    """Listen to the stream, past the head of the answer and its greeting."""
    reader, writer = await asyncio.open_connection(house.admin.host, house.admin.port)
    lines = [f"GET /api/stream{query} HTTP/1.1", "host: localhost", f"authorization: Bearer {TOKEN}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
    head = await reader.readuntil(b"\r\n\r\n")
    assert b" 200 " in head, head
    assert b"text/event-stream" in head
    await reader.readuntil(b": listening\n\n")
    try:
        yield reader
    finally:
        writer.close()


async def next_ids(reader: asyncio.StreamReader, count: int) -> list[str]:
    ids: list[str] = []
    async with asyncio.timeout(10):
        while len(ids) < count:
            line = await reader.readline()
            if line.startswith(b"id: "):
                ids.append(line[4:].decode().strip())
    return ids


async def test_what_happens_is_told_at_once(house: House) -> None:
    await happen(house, 3)
    async with listening(house) as reader:
        happened = await happen(house, 2)

        assert await next_ids(reader, 2) == happened


async def test_the_very_first_event_is_not_missed(house: House) -> None:
    async with listening(house) as reader:
        happened = await happen(house)

        assert await next_ids(reader, 1) == happened


@pytest.mark.parametrize("way", ["after", "last-event-id"])
async def test_a_listener_takes_up_where_it_broke_off(house: House, way: str) -> None:
    happened = await happen(house, 700)
    seen = happened[99]
    query, headers = (f"?after={seen}", {}) if way == "after" else ("", {"last-event-id": seen})

    async with listening(house, query, **headers) as reader:
        assert await next_ids(reader, 600) == happened[100:]
        assert await next_ids(reader, len(later := await happen(house, 3))) == later


async def test_who_turns_up_late_is_told_once(house: House) -> None:
    overtaken = house.ids.new("evt")
    async with listening(house) as reader:
        first = await happen(house, 70)
        assert await next_ids(reader, 70) == first

        await happen(house, 3)
        await next_ids(reader, 3)
        late = house.ids.new("evt")
        then = await happen(house, 20)
        assert await next_ids(reader, 20) == then
        await happen(house, at=late)

        assert await next_ids(reader, 1) == [late]
        last = await happen(house, 100)
        assert await next_ids(reader, 100) == last
    assert overtaken < first[0]


async def test_only_what_is_wished_for_is_told(house: House) -> None:
    async with listening(house, "?type=alert.loud,task.failed") as reader:
        await happen(house, type_="alert.quiet")
        loud = await happen(house, type_="alert.loud")

        assert await next_ids(reader, 1) == loud


async def test_klings_line_breaks_stay_inside_the_event(house: House) -> None:
    async with listening(house) as reader:
        await happen(house, body=b'{\r\n "task_id":\n\n"1",\r"x": 2}')
        await next_ids(reader, 1)
        frame = await reader.readuntil(b"\n\n")

    kind, *data = frame.decode().split("\r\n")[0].splitlines()
    assert kind == "event: alert.test"
    assert json.loads("\n".join(line.removeprefix("data: ") for line in data))["data"]["kling"] == {
        "task_id": "1",
        "x": 2,
    }


async def test_silence_has_a_heartbeat(house: House) -> None:
    async with listening(house) as reader:
        heard = asyncio.ensure_future(reader.readuntil(b": still here\n\n"))
        await until(_keeps(house, heard))


def _keeps(house: House, heard: "asyncio.Future[bytes]") -> Callable[[], bool]:
    def fact() -> bool:
        house.clock.advance(HEARTBEAT + timedelta(seconds=1))
        return heard.done()

    return fact


async def test_who_leaves_is_forgotten(house: House) -> None:
    async with listening(house):
        assert len(house.bells.events._listeners) == 1

    await until(lambda: not house.bells.events._listeners)


async def test_who_does_not_read_holds_up_nobody(house: House) -> None:
    async with listening(house), listening(house) as reader:
        for _ in range(20):
            happened = await happen(house, 200, body=b'{"padding": "' + b"x" * 2000 + b'"}')
            assert await next_ids(reader, 200) == happened


async def test_streams_end_when_we_stop(house: House, stop: asyncio.Event) -> None:
    """The listeners of the fixture have a grace of one second; a stream ends at once, so as to hold up nothing."""
    async with listening(house) as reader:
        stop.set()

        async with asyncio.timeout(0.9):
            rest = await reader.read()

    assert rest.endswith(b"0\r\n\r\n")


async def test_whether_there_is_a_stream_can_be_asked_without_listening(house: House) -> None:
    answer = await house.client.head("/api/stream")

    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
