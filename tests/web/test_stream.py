"""The event stream: no event is missed or sent twice, and only the client or a stop ends it."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from harness.waiting import wait_until
from harness.web_app import TOKEN, WebApp

from receiver.domain.model import Event, Verification
from receiver.web.resources.stream import HEARTBEAT


async def add_events(
    web: WebApp, count: int = 1, *, type_: str = "alert.test", body: bytes = b"", at: str = ""
) -> list[str]:
    """Commit events as the services do: first store them, then notify."""
    events = [
        Event(
            id=at or web.ids.new("evt"),
            type=type_,
            envelope=b'{"type":"%s","data":{"made":"up"}}' % type_.encode(),
            body=body,
            verified=Verification.NONE,
            created_at=web.clock.now(),
        )
        for _ in range(count)
    ]
    await web.store.tasks.add_events(events, [])
    web.notifiers.events.notify()
    return [event.id for event in events]


@asynccontextmanager
async def listening(web: WebApp, query: str = "", **headers: str) -> AsyncIterator[asyncio.StreamReader]:
    """Open the stream, and read past its head and greeting."""
    reader, writer = await asyncio.open_connection(web.admin.host, web.admin.port)
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


async def test_an_event_is_streamed_at_once(web: WebApp) -> None:
    await add_events(web, 3)
    async with listening(web) as reader:
        happened = await add_events(web, 2)

        assert await next_ids(reader, 2) == happened


async def test_a_stream_includes_the_first_event_of_an_empty_store(web: WebApp) -> None:
    async with listening(web) as reader:
        happened = await add_events(web)

        assert await next_ids(reader, 1) == happened


@pytest.mark.parametrize("way", ["after", "last-event-id"])
async def test_a_client_resumes_where_it_stopped(web: WebApp, way: str) -> None:
    happened = await add_events(web, 700)
    seen = happened[99]
    query, headers = (f"?after={seen}", {}) if way == "after" else ("", {"last-event-id": seen})

    async with listening(web, query, **headers) as reader:
        assert await next_ids(reader, 600) == happened[100:]
        assert await next_ids(reader, len(later := await add_events(web, 3))) == later


async def test_an_event_with_an_older_id_is_sent_once(web: WebApp) -> None:
    overtaken = web.ids.new("evt")
    async with listening(web) as reader:
        first = await add_events(web, 70)
        assert await next_ids(reader, 70) == first

        await add_events(web, 3)
        await next_ids(reader, 3)
        late = web.ids.new("evt")
        then = await add_events(web, 20)
        assert await next_ids(reader, 20) == then
        await add_events(web, at=late)

        assert await next_ids(reader, 1) == [late]
        last = await add_events(web, 100)
        assert await next_ids(reader, 100) == last
    assert overtaken < first[0]


async def test_an_event_committed_after_newer_ones_is_sent_once(web: WebApp) -> None:
    late = web.ids.new("evt")
    async with listening(web) as reader:
        for newer in (40, 64, 1):
            expected = await add_events(web, newer)
            if newer == 40:
                expected += await add_events(web, at=late)

            assert await next_ids(reader, len(expected)) == expected


async def test_only_the_requested_event_types_are_sent(web: WebApp) -> None:
    async with listening(web, "?type=alert.loud,task.failed") as reader:
        await add_events(web, type_="alert.quiet")
        loud = await add_events(web, type_="alert.loud")

        assert await next_ids(reader, 1) == loud


async def test_klings_line_breaks_stay_inside_the_event(web: WebApp) -> None:
    async with listening(web) as reader:
        await add_events(web, body=b'{\r\n "task_id":\n\n"1",\r"x": 2}')
        await next_ids(reader, 1)
        frame = await reader.readuntil(b"\n\n")

    kind, *data = frame.decode().split("\r\n")[0].splitlines()
    assert kind == "event: alert.test"
    assert json.loads("\n".join(line.removeprefix("data: ") for line in data))["data"]["kling"] == {
        "task_id": "1",
        "x": 2,
    }


async def test_an_idle_stream_sends_heartbeats(web: WebApp) -> None:
    async with listening(web) as reader:
        received = asyncio.ensure_future(reader.readuntil(b": still here\n\n"))
        await wait_until(_advance_until_done(web, received))


def _advance_until_done(web: WebApp, received: "asyncio.Future[bytes]") -> Callable[[], bool]:
    def fact() -> bool:
        web.clock.advance(HEARTBEAT + timedelta(seconds=1))
        return received.done()

    return fact


async def test_a_disconnected_client_is_unsubscribed(web: WebApp) -> None:
    async with listening(web):
        assert len(web.notifiers.events._subscribers) == 1

    await wait_until(lambda: not web.notifiers.events._subscribers)


async def test_a_client_that_does_not_read_delays_no_other(web: WebApp) -> None:
    async with listening(web), listening(web) as reader:
        for _ in range(20):
            happened = await add_events(web, 200, body=b'{"padding": "' + b"x" * 2000 + b'"}')
            assert await next_ids(reader, 200) == happened


async def test_streams_end_at_a_stop(web: WebApp, stop: asyncio.Event) -> None:
    """The listeners of the fixture have a grace of one second; a stream ends at once, so it delays nothing."""
    async with listening(web) as reader:
        stop.set()

        async with asyncio.timeout(0.9):
            rest = await reader.read()

    assert rest.endswith(b"0\r\n\r\n")


async def test_a_head_request_shows_that_the_stream_exists(web: WebApp) -> None:
    answer = await web.client.head("/api/stream")

    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
