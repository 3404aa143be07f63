"""When a request goes over an idle connection, when over a new one, and when it is sent again."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from functools import partial
from ipaddress import ip_address

import pytest
from harness.http_peers import Handler, http_peer, response
from harness.http_requests import TIMEOUT, post
from harness.waiting import wait_until

from receiver.domain.errors import NoResponse, RequestNotSent
from receiver.net.http_client import HttpClient, IPAddress, StreamedBody, read_limited


def gives_up_idle(last_words: bytes = b"", *, serves: int = 100) -> Handler:
    """Answer the first request of each of *serves* connections. Close at every other one after *last_words*."""
    known: list[asyncio.StreamWriter] = []

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if writer not in known and len(known) < serves:
            known.append(writer)
            writer.write(response(200, b"ok"))
            return
        writer.write(last_words)
        await writer.drain()
        writer.close()
        raise ConnectionError

    return answer


async def test_a_request_without_response_on_an_idle_connection_is_repeated_on_a_new_one(
    http_client: HttpClient,
) -> None:
    async with http_peer(gives_up_idle()) as peer:
        replies = [await post(http_client, peer.url, content=b"event") for _ in range(2)]

    assert [reply.status for reply in replies] == [200, 200]
    assert [request.body for request in peer.requests] == [b"event"] * 3
    assert peer.connections == 2


async def test_a_request_is_repeated_only_once(http_client: HttpClient) -> None:
    async with http_peer(gives_up_idle(serves=1)) as peer:
        await post(http_client, peer.url)
        with pytest.raises(NoResponse, match="closed the connection without a response"):
            await post(http_client, peer.url)

    assert len(peer.requests) == 3


async def test_a_request_with_a_partial_response_is_not_repeated(http_client: HttpClient) -> None:
    async with http_peer(gives_up_idle(b"H")) as peer:
        await post(http_client, peer.url)
        with pytest.raises(NoResponse):
            await post(http_client, peer.url)

    assert len(peer.requests) == 2


async def test_a_request_on_a_new_connection_is_not_repeated(http_client: HttpClient) -> None:
    async with http_peer(gives_up_idle(serves=0)) as peer:
        with pytest.raises(NoResponse):
            await post(http_client, peer.url)

    assert len(peer.requests) == 1


async def test_a_request_that_is_not_valid_is_not_sent_on_an_idle_connection(http_client: HttpClient) -> None:
    async with http_peer(response()) as peer:
        await post(http_client, peer.url)
        with pytest.raises(RequestNotSent, match="not valid HTTP"):
            await http_client.request("POST", peer.url, headers={"x": "a\r\nb"}, time_limit=TIMEOUT, max_body=10)

    assert len(peer.requests) == 1


async def test_without_reuse_a_request_goes_over_a_new_connection_and_once(http_client: HttpClient) -> None:
    async with http_peer(gives_up_idle(serves=2)) as peer:
        await post(http_client, peer.url)
        await http_client.request("POST", peer.url, time_limit=TIMEOUT, max_body=10, reuse=False)
        with pytest.raises(NoResponse):
            await http_client.request("POST", peer.url, time_limit=TIMEOUT, max_body=10, reuse=False)

    assert (len(peer.requests), peer.connections) == (3, 3)


@pytest.mark.parametrize("reuse", [True, False])
async def test_nothing_is_sent_if_the_check_before_it_fails_on_the_open_connection(
    http_client: HttpClient, reuse: bool
) -> None:
    class Refusal(Exception): ...

    async with http_peer(response()) as peer:
        await post(http_client, peer.url)
        connections: list[int] = []

        async def refuse() -> None:
            await wait_until(lambda: peer.connections == (1 if reuse else 2))
            connections.append(peer.connections)
            raise Refusal

        with pytest.raises(Refusal):
            await http_client.request(
                "POST", peer.url, time_limit=TIMEOUT, max_body=10, reuse=reuse, before_send=refuse
            )

    assert len(connections) == 1
    assert len(peer.requests) == 1


async def test_a_body_that_can_be_read_once_goes_over_a_new_connection(http_client: HttpClient) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"only once"

    async with http_peer(gives_up_idle()) as peer:
        await post(http_client, peer.url)
        body = StreamedBody(size=9, chunks=chunks())
        reply = await http_client.stream(
            peer.url, method="POST", content=body, time_limit=TIMEOUT, read=partial(read_limited, max_body=10)
        )

    assert (reply.status, peer.requests[-1].body, peer.connections) == (200, b"only once", 2)


async def test_a_host_name_is_resolved_again_although_its_connection_is_never_idle() -> None:
    lookups = 0

    async def resolve(_: str) -> Sequence[IPAddress]:
        nonlocal lookups
        lookups += 1
        return [ip_address("127.0.0.1")]

    http_client = HttpClient(user_agent="x", resolve=resolve, max_age=timedelta(milliseconds=50))
    async with http_peer(response()) as peer, asyncio.timeout(10):
        while lookups < 3:
            await post(http_client, f"http://moves.example:{peer.port}/")
        await http_client.aclose()

    assert 3 <= peer.connections < len(peer.requests)


async def test_a_connection_that_is_too_old_is_closed() -> None:
    http_client = HttpClient(user_agent="x", max_age=timedelta())
    async with http_peer(response()) as peer:
        await post(http_client, peer.url)
        await post(http_client, peer.url)

        assert peer.connections == 2
        assert len(http_client._pool._open) == 1
        await http_client.aclose()
