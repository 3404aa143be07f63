"""The client for programs, against the real admin listener: what it asks, what it gives, and how it goes on."""

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from decimal import Decimal

import pytest
from harness.event_stream import add_events, subscriber_count
from harness.http_client import plain_http
from harness.http_peers import http_peer, response
from harness.ports import free_port
from harness.waiting import wait_until
from harness.web_app import TOKEN, WebApp
from msgspec.structs import replace
from starlette.responses import JSONResponse

import receiver
from receiver import Client
from receiver.client import BatchNotFinished, TaskNotFinished, event_signal, transport
from receiver.domain.costs import Cost
from receiver.domain.errors import Conflict, InvalidRequest, NotFound, ReceiverError, RequestFailed, ServiceUnreachable
from receiver.domain.model import Task, TaskState
from receiver.events.factory import EventFactory
from receiver.events.routing import compile_routes
from receiver.settings import Address
from receiver.store.interfaces import ById, Change
from receiver.tasks.batches import BatchService

BEFORE_ALL = "evt_" + "0" * 25
JOB = {"prompt": "a cat", "subject_image_list": [{"subject_image": "https://example.com/a.png"}]}


@pytest.fixture(autouse=True)
def reconnect_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connect again at once."""
    monkeypatch.setattr(event_signal, "RECONNECT_SECONDS", 0.01)


@dataclass(slots=True)
class BreakableProxy:
    """A way to the admin listener that can be cut, or go silent."""

    target: Address
    url: str = ""
    connections: int = 0
    is_paused: bool = False
    _writers: list[asyncio.StreamWriter] = field(default_factory=list)

    def disconnect(self) -> None:
        while self._writers:
            self._writers.pop().transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        there, onward = await asyncio.open_connection(self.target.host, self.target.port)
        self._writers += [writer, onward]
        await asyncio.gather(self._pass(reader, onward), self._pass(there, writer))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                if not self.is_paused:
                    writer.write(data)
        except ConnectionError:
            pass
        finally:
            writer.transport.abort()


@asynccontextmanager
async def a_breakable_proxy(web: WebApp) -> AsyncIterator[BreakableProxy]:
    proxy = BreakableProxy(target=web.admin)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield proxy
    finally:
        proxy.disconnect()
        server.close()


def a_client(web: WebApp) -> Client:
    return Client(f"http://{web.admin}", TOKEN)


async def test_a_stream_begins_with_the_next_event(web: WebApp) -> None:
    await add_events(web, 3)
    async with a_client(web) as client, aclosing(client.events()) as events:
        first = asyncio.create_task(anext(events))
        await wait_until(lambda: subscriber_count(web) == 1)
        happened = await add_events(web, 2)

        assert [(await first).id, (await anext(events)).id] == happened


@pytest.mark.parametrize("before", [0, 3, 100])
async def test_no_event_is_lost_or_repeated_when_connections_break(web: WebApp, before: int) -> None:
    old = await add_events(web, before)
    received: list[str] = []
    expected: list[str] = []
    async with a_breakable_proxy(web) as proxy, Client(proxy.url, TOKEN) as client:

        async def listen() -> None:
            async for event in client.events(after=old[-1] if old else BEFORE_ALL):
                received.append(event.id)  # noqa: PERF401 -- it is looked at in between

        listening = asyncio.create_task(listen())
        for _ in range(5):
            late = web.ids.new("evt")
            expected += await add_events(web, 40)
            await wait_until(lambda: len(received) == len(expected))  # noqa: B023 -- called before it changes
            proxy.disconnect()
            expected += await add_events(web, at=late)  # made before the others, committed after them
            expected += await add_events(web, 40)
        await wait_until(lambda: len(received) >= len(expected))
        listening.cancel()

    assert sorted(received) == sorted(expected)
    assert proxy.connections > 5


async def test_a_reconnected_stream_returns_no_event_from_before_its_start(web: WebApp) -> None:
    await add_events(web, 70)
    async with a_breakable_proxy(web) as proxy, Client(proxy.url, TOKEN) as client, aclosing(client.events()) as events:
        first = asyncio.create_task(anext(events))
        await wait_until(lambda: subscriber_count(web) == 1)
        proxy.disconnect()
        (happened,) = await add_events(web)

        assert (await first).id == happened


async def test_a_silent_stream_is_reconnected(web: WebApp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "_STREAM_IDLE_SECONDS", 0.3)
    async with a_breakable_proxy(web) as proxy, Client(proxy.url, TOKEN) as client, aclosing(client.events()) as events:
        first = asyncio.create_task(anext(events))
        await wait_until(lambda: subscriber_count(web) == 1)
        proxy.is_paused = True
        (happened,) = await add_events(web)
        begun = proxy.connections
        await wait_until(lambda: proxy.connections > begun)
        proxy.is_paused = False

        assert (await first).id == happened


async def test_only_matching_events_are_returned(web: WebApp) -> None:
    async with a_client(web) as client, aclosing(client.events(types="alert.two", after=BEFORE_ALL)) as events:
        await add_events(web, 2, type_="alert.one")
        (wanted,) = await add_events(web, type_="alert.two")

        event = await anext(events)

    assert (event.id, event.type, event.data["kling"]["n"]) == (wanted, "alert.two", 1.0)


async def test_an_unreachable_service_raises_an_error_after_the_tolerance(web: WebApp) -> None:
    nowhere = Client(f"http://127.0.0.1:{free_port()}", TOKEN, outage_tolerance=timedelta(seconds=0.2))
    async with nowhere:
        with pytest.raises(ServiceUnreachable):
            await anext(nowhere.events())
        with pytest.raises(ServiceUnreachable):
            await anext(nowhere.events(after=BEFORE_ALL))
    async with Client(f"http://{web.admin}", "another") as stranger:
        with pytest.raises(RequestFailed, match="token"):
            await anext(stranger.events(after=BEFORE_ALL))


async def test_an_events_body_is_what_destinations_receive(web: WebApp) -> None:
    (happened,) = await add_events(web)
    async with a_client(web) as client:
        body = await client.event_body(happened)

        assert b'"as": "Kling\\r\\nwrote it",\r\n\r\n "n": 1.0 }' in body
        assert (await client.event(happened)).id == happened


async def test_a_task_keeps_its_label_tags_batch_and_key(web: WebApp) -> None:
    async with a_client(web) as client:
        task = await client.submit(
            "images/multi-image2image", JOB, label="first", tags={"a": "b"}, batch="b1", idempotency_key="k"
        )
        again = await client.submit("images/multi-image2image", JOB, idempotency_key="k")
        listed = await client.tasks(label="first", tags={"a": "b"}, batch="b1")
        shown = await client.task(task.id)

        assert task.id == again.id == listed.items[0].id == shown.id
        assert (shown.label, shown.tags, shown.batch) == ("first", {"a": "b"}, "b1")
        assert shown.raw == await client.get(f"/api/tasks/{task.id}")
        assert (await client.list_events(task=task.id)).items == []


async def test_each_kind_of_refusal_raises_its_own_error(web: WebApp) -> None:
    async with a_client(web) as client:
        with pytest.raises(NotFound, match="There is no task"):
            await client.task("no/such task?")
        with pytest.raises(InvalidRequest):
            await client.submit("nowhere", {}, tags={":": "x"})
        with pytest.raises(NotFound):
            await client.delivery("dlv_none")


async def test_a_queued_task_is_cancelled_and_a_submitted_one_is_not(web: WebApp) -> None:
    async with a_client(web) as client:
        made = web.kling.answer
        web.kling.answer = lambda _: JSONResponse({"code": 1303, "message": "Too many."}, 429)
        waiting = await client.submit("images/multi-image2image", JOB)
        assert waiting.state == "queued"

        cancelled = await client.cancel(waiting.id, why="a typo")
        again = await client.cancel(waiting.id)

        assert (cancelled.state, cancelled.is_finished) == ("cancelled", True)
        assert (again.state, again.message) == (cancelled.state, cancelled.message)
        story = await client.get(f"/api/tasks/{waiting.id}/explain")
        assert [(action["verb"], action["why"]) for action in story["actions"]] == [("task.cancelled", "a typo")]
        assert "cancelled" in story["next"]
        with pytest.raises(NotFound):
            await client.cancel("tsk_none")

        web.kling.answer = made
        web.clock.advance(timedelta(hours=1))
        sent = await client.submit("images/multi-image2image", JOB)
        with pytest.raises(Conflict, match="submitted"):
            await client.cancel(sent.id)


async def test_closing_a_batch_is_repeated_after_a_lost_answer() -> None:
    batch = json.dumps({"name": "b1", "state": "closed", "tasks": 1, "counts": {}}).encode()
    answers = iter([response(200, batch), None, response(200, batch)])

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        status = next(answers)
        writer.transport.abort() if status is None else writer.write(status)

    async with http_peer(answer) as peer, Client(peer.url, "token") as client:
        await client.batch("b1")

        assert (await client.close_batch("b1")).state == "closed"

    assert [request.line.split()[0] for request in peer.requests] == ["GET", "POST", "POST"]


@pytest.mark.parametrize(("key", "posts"), [("k", 2), ("", 1), (None, 1)])
async def test_a_submit_is_repeated_only_with_an_idempotency_key(key: str | None, posts: int) -> None:
    task = json.dumps({"id": "tsk_1", "state": "queued"}).encode()
    answers = iter([response(200, task), None, response(202, task)])

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        status = next(answers)
        writer.transport.abort() if status is None else writer.write(status)

    async with http_peer(answer) as peer, Client(peer.url, "token") as client:
        await client.task("tsk_1")
        with contextlib.suppress(ServiceUnreachable):
            await client.submit("images/generations", JOB, idempotency_key=key)

    assert [request.line.split()[0] for request in peer.requests] == ["GET", *["POST"] * posts]


async def test_wait_raises_at_its_timeout_with_the_unfinished_task(web: WebApp) -> None:
    async with a_client(web) as client:
        task = await client.submit("images/multi-image2image", JOB)

        with pytest.raises(TimeoutError) as caught:
            await client.wait(task.id, timeout=0.1)

    assert isinstance(caught.value, TaskNotFinished)
    assert isinstance(caught.value, ReceiverError)
    assert caught.value.task.id == task.id
    assert "still" in str(caught.value)


async def test_concurrent_waits_share_one_stream(web: WebApp) -> None:
    async with a_client(web) as client:
        task = await client.submit("images/multi-image2image", JOB)
        url = json.loads(web.kling.bodies[-1])["callback_url"]
        first: list[str] = []

        async def second_state() -> str:
            async with aclosing(client.follow(task.id)) as sightings:
                first.append((await anext(sightings)).state)
                return (await anext(sightings)).state

        waiting = [asyncio.create_task(second_state()) for _ in range(80)]
        await wait_until(lambda: len(first) == 80 and subscriber_count(web) == 1, seconds=60)
        async with plain_http() as kling:
            pushed = {"task_id": "8672", "task_status": "processing"}
            await kling.post(f"http://{web.public}/callbacks/{url.rpartition('/')[2]}", json=pushed)
        states = await asyncio.gather(*waiting)

        assert set(states) == {"processing"}
        await wait_until(lambda: subscriber_count(web) == 0)


def test_importing_the_package_loads_no_client() -> None:
    code = "import receiver, sys; print('httpx2' in sys.modules, 'receiver.client' in sys.modules); receiver.Client"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert ended.stdout == "False False\n"


def test_the_client_loads_no_settings_and_no_validation() -> None:
    code = "import receiver.client, sys; print({'receiver.settings', 'pydantic', 'starlette'} & {*sys.modules})"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert ended.stdout == "set()\n"


def test_an_unknown_name_of_the_package_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Server'"):
        receiver.Server  # type: ignore[attr-defined]  # noqa: B018 -- that is the point


async def test_a_batch_is_filled_closed_and_waited_for(web: WebApp) -> None:
    async with a_client(web) as client:
        task = await client.submit("images/multi-image2image", JOB, batch={"name": "spring", "size": 9})
        with pytest.raises(BatchNotFinished, match="still open: 1 submitted"):
            await client.wait_for_batch("spring", timeout=0.1)
        closed = await client.close_batch("spring", why="that is all")
        waiting = asyncio.create_task(client.wait_for_batch("spring"))
        await finish_task(web, task.id)
        finished = await waiting

        assert (closed.state, closed.tasks, closed.size, closed.is_finished) == ("closed", 1, 9, False)
        assert (finished.is_finished, finished.succeeded, finished.counts) == (True, True, {"succeed": 1})
        assert [batch.name for batch in (await client.batches(state="finished")).items] == ["spring"]
        assert (await client.event(finished.event_id or "")).data["batch"]["name"] == "spring"
        assert [each.id for each in (await client.tasks(batch="spring")).items] == [task.id]
        assert (await client.costs("batch"))["total"]["charges"] == {"units": "1.50"}
        with pytest.raises(NotFound):
            await client.batch("autumn")


async def finish_task(web: WebApp, task_id: str) -> None:
    """Let a task succeed and its batch finish, as the service's workers do."""

    def judge(task: Task, _: object) -> Change:
        over = replace(task, state=TaskState.SUCCEED)
        return Change(task=over, cost=Cost(charges={"units": Decimal("1.50")}, raw="{}"))

    await web.store.tasks.apply(ById(id=task_id), judge)
    announcer = EventFactory(compile_routes(()), web.ids)
    gatherer = BatchService(web.store.batches, announcer, notifiers=web.notifiers, clock=web.clock)
    await gatherer._finish_complete()


@pytest.mark.parametrize(
    "since",
    [
        datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=23))),
        datetime.max.replace(tzinfo=timezone(-timedelta(hours=10))),
    ],
)
async def test_a_time_that_does_not_exist_in_utc_is_refused(web: WebApp, since: datetime) -> None:
    async with a_client(web) as client:
        with pytest.raises(InvalidRequest, match="does not exist in UTC"):
            await client.costs(since=since)
