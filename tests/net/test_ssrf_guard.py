"""No form of an address, and no play with names, leads a stranger's URL to where strangers have no business."""

import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import timedelta
from ipaddress import ip_address, ip_network

import pytest
from data.ssrf_urls import FORBIDDEN, LOOPBACK_SPELLINGS, NOT_PUBLIC, PUBLIC
from harness.http_peers import http_peer, response

from receiver.domain.errors import AddressBlocked, RequestNotSent
from receiver.net.http_client import HttpClient, IPAddress, has_literal_ip
from receiver.net.ssrf_guard import OperatorGuard, PublicGuard

TIMEOUT = timedelta(seconds=60)


class FakeResolver:
    """Answers for any name; each time with the next answer, the last one for ever."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.calls = 0
        self._answers = answers

    async def __call__(self, _: str) -> Sequence[IPAddress]:
        answer = self._answers[min(self.calls, len(self._answers) - 1)]
        self.calls += 1
        return [ip_address(text) for text in answer]


_recorders: list[list[object]] = []


def _audit_hook(event: str, arguments: tuple[object, ...]) -> None:
    if event == "socket.connect" and _recorders:
        _recorders[-1].append(arguments[1])


@pytest.fixture(scope="session", autouse=True)
def _audit() -> None:
    sys.addaudithook(_audit_hook)


@pytest.fixture
def dialled() -> Iterator[list[object]]:
    """Every address that this process tries to connect to, as the interpreter itself reports it."""
    seen: list[object] = []
    _recorders.append(seen)
    yield seen
    _recorders.remove(seen)


@pytest.fixture
async def public_client() -> AsyncIterator[HttpClient]:
    http_client = HttpClient(user_agent="x", guard=PublicGuard())
    yield http_client
    await http_client.aclose()


def host_of(address: str) -> str:
    return f"[{address}]" if ":" in address else address


async def post(http_client: HttpClient, url: str) -> None:
    await http_client.request("POST", url, time_limit=TIMEOUT, max_body=100)


@pytest.mark.parametrize("address", FORBIDDEN + NOT_PUBLIC)
async def test_a_private_address_in_an_untrusted_url_is_not_dialled(
    public_client: HttpClient, dialled: list[object], address: str
) -> None:
    with pytest.raises(AddressBlocked):
        await post(public_client, f"http://{host_of(address)}/")

    assert dialled == []


@pytest.mark.parametrize("address", FORBIDDEN + NOT_PUBLIC)
async def test_an_untrusted_host_name_of_a_private_address_is_not_dialled(dialled: list[object], address: str) -> None:
    http_client = HttpClient(user_agent="x", guard=PublicGuard(), resolve=FakeResolver([address]))

    with pytest.raises(AddressBlocked, match=r"inside\.example → "):
        await post(http_client, "http://inside.example/")
    assert dialled == []


@pytest.mark.parametrize("address", FORBIDDEN + NOT_PUBLIC)
async def test_one_blocked_address_blocks_its_host_name(dialled: list[object], address: str) -> None:
    http_client = HttpClient(user_agent="x", guard=PublicGuard(), resolve=FakeResolver(["8.8.8.8", address, "1.1.1.1"]))

    with pytest.raises(AddressBlocked):
        await post(http_client, "http://mixed.example/")
    assert dialled == []


@pytest.mark.parametrize("host", LOOPBACK_SPELLINGS)
async def test_no_spelling_of_loopback_passes(dialled: list[object], public_client: HttpClient, host: str) -> None:
    async with http_peer(response()) as peer:
        with pytest.raises((AddressBlocked, RequestNotSent)):
            await post(public_client, f"http://{host}:{peer.port}/")

        assert peer.connections == 0
    assert dialled == []


async def test_the_dialled_address_is_the_checked_one(dialled: list[object]) -> None:
    resolver = FakeResolver(["127.0.0.1"], ["127.0.0.2"])
    http_client = HttpClient(user_agent="x", guard=PublicGuard([ip_network("127.0.0.1/32")]), resolve=resolver)
    async with http_peer(response()) as peer:
        await post(http_client, f"http://rebinding.example:{peer.port}/")
        await http_client.aclose()

        assert resolver.calls == 1
        assert dialled == [("127.0.0.1", peer.port)]


async def test_a_host_name_that_changes_to_a_private_address_is_refused(dialled: list[object]) -> None:
    resolver = FakeResolver(["127.0.0.1"], ["127.0.0.2"])
    http_client = HttpClient(user_agent="x", guard=PublicGuard([ip_network("127.0.0.1/32")]), resolve=resolver)
    async with http_peer(response(Connection="close")) as peer:
        await post(http_client, f"http://rebinding.example:{peer.port}/")

        with pytest.raises(AddressBlocked):
            await post(http_client, f"http://rebinding.example:{peer.port}/")
        assert len(dialled) == 1


async def test_a_redirect_to_a_blocked_address_is_not_followed(dialled: list[object]) -> None:
    http_client = HttpClient(user_agent="x", guard=PublicGuard([ip_network("127.0.0.1/32")]))
    async with http_peer(response(307, Location="http://169.254.169.254/latest")) as peer:
        await post(http_client, peer.url)
        await http_client.aclose()

        assert dialled == [("127.0.0.1", peer.port)]


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_permitted_by_every_guard(address: str) -> None:
    PublicGuard().check("host.example", [ip_address(address)])
    OperatorGuard().check("host.example", [ip_address(address)])


@pytest.mark.parametrize("address", FORBIDDEN)
def test_no_setting_permits_metadata_or_link_local(address: str) -> None:
    everything = [ip_network("0.0.0.0/0"), ip_network("::/0")]

    for guard in (OperatorGuard(), PublicGuard(everything)):
        with pytest.raises(AddressBlocked, match="never dialled"):
            guard.check("host.example", [ip_address(address)])


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_an_operators_url_may_use_any_other_address(address: str) -> None:
    OperatorGuard().check("host.example", [ip_address(address)])


def test_link_local_is_recognized_with_a_zone() -> None:
    with pytest.raises(AddressBlocked):
        OperatorGuard().check("host.example", [ip_address("fe80::1%eth0")])


@pytest.mark.parametrize(
    ("allowed", "address"),
    [
        ("10.0.0.0/8", "10.1.2.3"),
        ("10.0.0.0/8", "::ffff:10.1.2.3"),
        ("127.0.0.1/32", "127.0.0.1"),
        ("fd00::/8", "fd12::1"),
        ("64:ff9b::/96", "64:ff9b::8.8.8.8"),
        ("64:ff9b:1::/48", "64:ff9b:1::8.8.8.8"),
        ("64:ff9b:1::/48", "64:ff9b:1:808:8:800::"),
    ],
)
def test_allow_permits_its_network_in_untrusted_urls(allowed: str, address: str) -> None:
    PublicGuard([ip_network(allowed)]).check("host.example", [ip_address(address)])


@pytest.mark.parametrize(
    ("allowed", "address"),
    [
        ("10.0.0.0/8", "192.168.0.1"),
        ("64:ff9b::/96", "64:ff9b::10.0.0.1"),
        ("64:ff9b:1::/48", "64:ff9b:1::10.0.0.1"),
        ("64:ff9b:1::/48", "64:ff9b:1:a00:0:100::"),
        ("64:ff9b:1::/48", "64:ff9b:1:a:0:1::"),
        ("64:ff9b:1::/48", "64:ff9b:1:0:a:0:100:0"),
        ("2002::/16", "2002:7f00:1::1"),
    ],
)
def test_allow_permits_only_its_networks(allowed: str, address: str) -> None:
    with pytest.raises(AddressBlocked):
        PublicGuard([ip_network(allowed)]).check("host.example", [ip_address(address)])


def test_a_refusal_names_the_host_the_address_and_the_setting() -> None:
    with pytest.raises(AddressBlocked) as caught:
        PublicGuard().check("intranet.example", [ip_address("10.0.0.7")])

    assert str(caught.value) == (
        "intranet.example → 10.0.0.7 is not public: private. "
        'If it should be reachable, add "10.0.0.7" or its network to [network] allow.'
    )


@pytest.mark.parametrize("host", ["127.1", "0x7f.1", "2130706433", "0", "[::1]", "127。0。0。1", "a@127.0.0.1"])
def test_an_ip_address_is_recognized_in_every_spelling(host: str) -> None:
    assert has_literal_ip(f"http://{host}/")


@pytest.mark.parametrize("host", ["localhost", "example.com", "127.0.0.1.nip.io", "0x7g.1", "", "1.2.3.4.5"])
def test_a_host_name_is_not_an_ip_address(host: str) -> None:
    assert not has_literal_ip(f"http://{host}/")
