"""Callbacks that arrive at the same moment are stored together, and each gets its own answer."""

import asyncio
from collections.abc import Sequence

import pytest
from harness.fake_inbox import TOKEN, FakeInbox
from harness.logs import capture_logs
from harness.waiting import wait_until
from harness.web_app import SendBytes, Serve

from receiver.domain.bounded_dict import BoundedDict
from receiver.domain.clock import token_hash
from receiver.domain.errors import MalformedBody, StoreUnavailable
from receiver.domain.request_id import request_id
from receiver.settings import Address
from receiver.tracking.parsed_push import Callback
from receiver.web.callbacks import public_app
from receiver.web.server.allowed_hosts import AllowedHosts
from receiver.web.server.connections import ConnectionLimits

OTHER = "another-token-of-ours"
HEAD = "POST /callbacks/{} HTTP/1.1\r\nhost: hooks.example.com\r\n"


class GroupInbox(FakeInbox):
    """Records the groups, answers each callback by its body, and waits for its gate."""

    def __init__(self, failure: Exception | None = None) -> None:
        super().__init__(failure)
        self.groups: list[Sequence[Callback]] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def accept_callbacks(self, callbacks: Sequence[Callback]) -> Sequence[bool | BaseException]:
        self.groups.append(callbacks)
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        outcomes: dict[bytes, bool | BaseException]
        outcomes = {b"{}": True, b"no": MalformedBody("It is no JSON."), b"??": KeyError(TOKEN), b"[]": False}
        return [outcomes[each.body] for each in callbacks]


def known_tokens() -> BoundedDict[bytes, None]:
    known: BoundedDict[bytes, None] = BoundedDict(10)
    known[token_hash(TOKEN)] = known[token_hash(OTHER)] = None
    return known


def post(body: bytes = b"{}", *, token: str = TOKEN, fields: str = "connection: close\r\n") -> bytes:
    return f"{HEAD.format(token)}{fields}content-length: {len(body)}\r\n\r\n".encode() + body


async def test_callbacks_of_one_moment_are_stored_together_and_answered_one_by_one(serve: Serve) -> None:
    inbox = GroupInbox()
    address = await serve(public_app(inbox, max_body=1000, known_tokens=known_tokens()))
    connections = [await asyncio.open_connection(address.host, address.port) for _ in range(4)]

    for (_, writer), body in zip(connections, (b"{}", b"no", b"??", b"{}"), strict=True):
        writer.write(post(body))
    answers = [await reader.read() for reader, _ in connections]

    assert [answer[9:12] for answer in answers] == [b"200", b"400", b"500", b"200"]
    assert len(inbox.groups) < 4  # all were sent before the server could run
    assert len({each.request for group in inbox.groups for each in group}) == 4
    assert request_id() is None
    for _, writer in connections:
        writer.close()


async def test_a_token_that_has_ended_gets_404_and_is_forgotten(serve: Serve, send_bytes: SendBytes) -> None:
    inbox, known = GroupInbox(), known_tokens()
    address = await serve(public_app(inbox, max_body=1000, known_tokens=known))
    inbox.tokens = set()

    unknown = await send_bytes(address, post(b"[]"))
    unreadable = await send_bytes(address, post(b"no", token=OTHER))

    assert unknown.startswith(b"HTTP/1.1 404 ")
    assert unreadable.startswith(b"HTTP/1.1 404 ")
    assert not known


async def test_a_store_that_cannot_write_answers_503_to_all(serve: Serve, send_bytes: SendBytes) -> None:
    inbox = GroupInbox(StoreUnavailable("It is full."))
    address = await serve(public_app(inbox, max_body=1000, known_tokens=known_tokens()))

    answer = await send_bytes(address, post())

    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"retry-after: 5\r\n" in answer


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        pytest.param(post(fields="content-encoding: br\r\nconnection: close\r\n"), b"415", id="a coding"),
        pytest.param(post(fields="host: x\r\n"), b"400", id="two hosts"),
        pytest.param(post().replace(b"hooks", b"other"), b"421", id="another host"),
        pytest.param(post(b"{" * 1001), b"413", id="too large"),
        pytest.param(post().replace(b"POST", b"PUT"), b"405", id="another method"),
        pytest.param(post().replace(b"HTTP/1.1", b"HTTP/1.0"), b"200", id="HTTP/1.0"),
    ],
)
async def test_a_request_that_is_not_plain_gets_its_usual_answer(
    serve: Serve, send_bytes: SendBytes, *, sent: bytes, status: bytes
) -> None:
    hosts = AllowedHosts(Address("127.0.0.1", 8700), {"hooks.example.com"})
    app = public_app(GroupInbox(), max_body=1000, allowed_hosts=hosts, known_tokens=known_tokens())
    address = await serve(app)

    assert (await send_bytes(address, sent))[9:12] == status


async def test_a_head_that_arrives_in_parts_has_the_same_limit(serve: Serve) -> None:
    limits = ConnectionLimits(head_bytes=1000)
    address = await serve(public_app(GroupInbox(), max_body=1000, known_tokens=known_tokens()), limits=limits)
    reader, writer = await asyncio.open_connection(address.host, address.port)

    writer.write(post(fields=f"connection: close\r\nx-a: {'a' * 700}\r\n")[:700])
    await asyncio.sleep(0.05)  # the rest fits in the limit alone
    writer.write(post(fields=f"connection: close\r\nx-a: {'a' * 700}\r\nx-b: {'b' * 300}\r\n")[700:])
    answer = await reader.read()
    writer.close()

    assert answer.startswith(b"HTTP/1.1 431 ")


async def test_a_body_that_arrives_after_its_head_is_stored_alone(serve: Serve) -> None:
    inbox = GroupInbox()
    address = await serve(public_app(inbox, max_body=1000, known_tokens=known_tokens()))
    reader, writer = await asyncio.open_connection(address.host, address.port)

    writer.write(post(fields="expect: 100-continue\r\nconnection: close\r\n")[:-2])
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(b"{}")
    answer = await reader.read()
    writer.close()

    assert answer.startswith(b"HTTP/1.1 200 ")
    assert inbox.groups == []
    assert [body for _, body in inbox.received] == [b"{}"]


async def test_pipelined_callbacks_are_answered_in_order(serve: Serve, send_bytes: SendBytes) -> None:
    inbox = GroupInbox()
    address = await serve(public_app(inbox, max_body=1000, known_tokens=known_tokens()))

    answer = await send_bytes(address, post(b"no", fields="") + post(b"{}", fields="") + post(b"{}"))

    assert [part[:3] for part in answer.split(b"HTTP/1.1 ")[1:]] == [b"400", b"200", b"200"]


async def test_a_stop_waits_for_a_group_and_closes_its_connections(serve: Serve, stop: asyncio.Event) -> None:
    inbox = GroupInbox()
    inbox.gate.clear()
    address = await serve(public_app(inbox, max_body=1000, known_tokens=known_tokens()))
    reader, writer = await asyncio.open_connection(address.host, address.port)
    writer.write(post(fields=""))
    await wait_until(lambda: bool(inbox.groups))

    stop.set()
    await asyncio.sleep(0.01)
    inbox.gate.set()
    answer = await reader.read()
    writer.close()

    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"connection: close\r\n" in answer


async def test_a_client_that_disconnects_does_not_affect_its_group(serve: Serve) -> None:
    inbox = GroupInbox()
    inbox.gate.clear()
    address = await serve(public_app(inbox, max_body=1000, known_tokens=known_tokens()))
    (_, leaving), (reader, writer) = [await asyncio.open_connection(address.host, address.port) for _ in range(2)]
    leaving.write(post())
    writer.write(post())
    await wait_until(lambda: sum(map(len, inbox.groups)) == 2)

    leaving.transport.abort()
    await asyncio.sleep(0.01)
    inbox.gate.set()
    answer = await reader.read()
    writer.close()

    assert answer.startswith(b"HTTP/1.1 200 ")


class FailingLookup(GroupInbox):
    """An inbox whose lookups of tokens fail."""

    async def has_token(self, token: str) -> bool:
        raise KeyError(token)


async def answers_of_a_group(address: Address, *sent: bytes) -> list[bytes]:
    """Send requests at the same moment, each on a connection of its own. Return the statuses."""
    connections = [await asyncio.open_connection(address.host, address.port) for _ in sent]
    for (_, writer), request in zip(connections, sent, strict=True):
        writer.write(request)
    async with asyncio.timeout(60):
        answers = [await reader.read() for reader, _ in connections]
    for _, writer in connections:
        writer.close()
    return [answer[9:12] for answer in answers]


async def test_each_of_a_group_is_answered_if_a_token_cannot_be_looked_up(serve: Serve) -> None:
    address = await serve(public_app(FailingLookup(), max_body=1000, known_tokens=known_tokens()))

    answers = await answers_of_a_group(address, post(b"no"), post(), post(b"no", token=OTHER))

    assert answers == [b"500", b"200", b"500"]


async def test_an_error_of_a_group_puts_no_token_of_it_into_the_log(serve: Serve) -> None:
    app = public_app(GroupInbox(KeyError(TOKEN)), max_body=1000, known_tokens=known_tokens())
    address = await serve(app)

    with capture_logs() as logs:
        answers = await answers_of_a_group(address, post(), post(token=OTHER))

    assert answers == [b"500"] * 2
    assert [line["event"] for line in logs] == ["callback.failed"] * 2
    assert TOKEN not in repr(logs)
