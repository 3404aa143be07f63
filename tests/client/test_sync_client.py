"""The blocking client works without an event loop and across threads."""

import asyncio
import threading

import pytest
from harness.event_stream import add_events, subscriber_count
from harness.waiting import wait_until
from harness.web_app import TOKEN, WebApp

from receiver import SyncClient
from receiver.domain.errors import NotFound, ServiceUnreachable

BEFORE_ALL = "evt_" + "0" * 25
JOB = {"prompt": "a cat", "subject_image_list": [{"subject_image": "https://example.com/a.png"}]}


async def test_the_sync_client_works_with_and_without_a_running_loop(web: WebApp) -> None:
    happened = await add_events(web, 3)

    def plain() -> list[str]:
        received = []
        with SyncClient(f"http://{web.admin}", TOKEN) as client:
            for event in client.events(after=BEFORE_ALL):
                received.append(event.id)
                if len(received) == 3:
                    break
            assert [event.id for event in client.list_events().items] == received[::-1]
            with pytest.raises(NotFound):
                client.task("nothing")
        return received

    assert await asyncio.to_thread(plain) == happened
    await wait_until(lambda: subscriber_count(web) == 0)


async def test_closing_a_client_ends_calls_of_other_threads(web: WebApp) -> None:
    client = SyncClient(f"http://{web.admin}", TOKEN)
    ended: list[str] = []

    def listen() -> None:
        try:
            for _ in client.events():
                pass
        except ServiceUnreachable as exc:
            ended.append(exc.message)

    thread = threading.Thread(target=listen)
    thread.start()
    await wait_until(lambda: subscriber_count(web) == 1)
    await asyncio.to_thread(client.close)
    await asyncio.to_thread(thread.join)

    assert ended == ["The client is closed."]
    with pytest.raises(ServiceUnreachable, match="closed"):
        client.task("any")
    client.close()
