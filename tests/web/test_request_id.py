"""Each callback has an id of its own, from its first line to its last."""

import asyncio
from collections.abc import Sequence

from harness.web_app import SendBytes, Serve

from receiver.domain.request_id import request_id
from receiver.tracking.parsed_push import Callback
from receiver.web.callbacks import public_app

POST = b"POST /callbacks/token HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}"


class RecordingInbox:
    """Records the request's id when it looks up the token, and before and after it waits."""

    def __init__(self) -> None:
        self.ids: list[list[str | None]] = []
        self.gate = asyncio.Event()

    async def has_token(self, token: str) -> bool:
        return bool(token)

    async def accept_callbacks(self, callbacks: Sequence[Callback]) -> Sequence[bool | BaseException]:
        raise AssertionError(f"{len(callbacks)} callbacks with a token that was not known")

    async def accept_callback(self, token: str, headers: Sequence[tuple[str, str]], body: bytes) -> bool:
        seen = [request_id()]
        self.ids.append(seen)
        if len(self.ids) == 2:
            self.gate.set()
        await self.gate.wait()
        seen.append(request_id())
        return bool(token and headers and body)


async def test_callbacks_at_the_same_time_have_different_ids(serve: Serve, send_bytes: SendBytes) -> None:
    inbox = RecordingInbox()
    address = await serve(public_app(inbox, max_body=1000))
    close = POST.replace(b"host: x\r\n", b"host: x\r\nconnection: close\r\n")

    answers = await asyncio.gather(*(send_bytes(address, close) for _ in range(2)))

    assert [answer[:12] for answer in answers] == [b"HTTP/1.1 200"] * 2
    (first, again), (second, later) = inbox.ids
    assert first == again is not None
    assert second == later is not None
    assert first != second


async def test_the_callbacks_of_one_connection_have_different_ids(serve: Serve, send_bytes: SendBytes) -> None:
    inbox = RecordingInbox()
    inbox.gate.set()
    address = await serve(public_app(inbox, max_body=1000))

    await send_bytes(address, POST + POST.replace(b"host: x\r\n", b"host: x\r\nconnection: close\r\n"))

    assert len({seen[0] for seen in inbox.ids}) == 2
    assert request_id() is None
