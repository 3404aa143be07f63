"""TLS: the host name is verified, and every failure says why."""

import ssl
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path

import pytest
from harness.http_peers import http_peer, never_respond, respond_with, response
from harness.http_requests import SHORT_TIMEOUT, post
from harness.waiting import wait_until

from receiver.domain.errors import NetworkFault, RequestNotSent
from receiver.net.http_client import HttpClient, IPAddress

# TLS.


CERTIFICATE = Path(__file__).parents[1] / "data" / "host.example.pem"
"""A certificate for host.example that it signed itself, good for a hundred years, with its key."""


@pytest.fixture
def server_tls() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    return context


async def to_loopback(_: str) -> Sequence[IPAddress]:
    return [ip_address("127.0.0.1")]


async def test_tls_verifies_the_host_name_and_not_the_dialled_address(server_tls: ssl.SSLContext) -> None:
    def trusting() -> ssl.SSLContext:
        return ssl.create_default_context(cafile=CERTIFICATE)

    http_client = HttpClient(user_agent="x", resolve=to_loopback, make_tls=trusting)
    async with http_peer(response(200, b"safe"), tls=server_tls) as peer:
        for _ in range(2):
            assert (await post(http_client, f"https://host.example:{peer.port}/")).body == b"safe"
        with pytest.raises(RequestNotSent, match=r"The certificate of other\.example is not valid"):
            await post(http_client, f"https://other.example:{peer.port}/")
        await http_client.aclose()

    assert [request.headers["host"] for request in peer.requests] == [f"host.example:{peer.port}"] * 2


async def test_a_self_signed_certificate_is_refused(server_tls: ssl.SSLContext) -> None:
    http_client = HttpClient(user_agent="x", resolve=to_loopback)
    async with http_peer(response(), tls=server_tls) as peer:
        with pytest.raises(
            RequestNotSent, match=r"The certificate of host\.example is not valid: self.signed certificate"
        ):
            await post(http_client, f"https://host.example:{peer.port}/")
        await http_client.aclose()

    assert peer.requests == []


async def test_https_to_a_plain_http_port_is_reported(http_client: HttpClient) -> None:
    async with http_peer(respond_with(b"HTTP/1.1 400 Bad\r\n\r\n", then_close=True), reads_requests=False) as peer:
        with pytest.raises(RequestNotSent, match=r"TLS with 127\.0\.0\.1") as failed:
            await post(http_client, f"https://127.0.0.1:{peer.port}/")

    assert failed.value.fault is NetworkFault.TLS


async def test_a_close_during_the_tls_handshake_is_reported(http_client: HttpClient) -> None:
    async with http_peer(respond_with(b"", then_close=True), reads_requests=False) as peer:
        with pytest.raises(RequestNotSent, match=r"TLS with 127\.0\.0\.1"):
            await post(http_client, f"https://127.0.0.1:{peer.port}/")


async def test_a_hanging_tls_handshake_counts_as_not_connected(http_client: HttpClient) -> None:
    async with http_peer(never_respond, reads_requests=False) as peer:
        with pytest.raises(RequestNotSent, match="Could not connect to"):
            await post(http_client, f"https://127.0.0.1:{peer.port}/", total=SHORT_TIMEOUT)
        await wait_until(lambda: peer.open_connections == 0)
