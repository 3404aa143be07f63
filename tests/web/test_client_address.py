"""Only trusted proxies set the client's address, and failures are counted per client in bounded memory."""

from ipaddress import ip_network
from typing import Any

import pytest

from receiver.web.server.client_address import TrustedProxies, peer_name
from receiver.web.server.failure_limiter import FailureLimiter

NEAR, FAR, STRANGER, LIAR = "10.0.0.1", "10.0.0.2", "198.51.100.7", "203.0.113.9"


def a_scope(client: str | None, *forwarded: str) -> dict[str, Any]:
    headers = [(b"x-forwarded-for", line.encode("latin-1")) for line in forwarded]
    return {"client": None if client is None else (client, 1234), "headers": headers}


@pytest.mark.parametrize(
    ("client", "forwarded", "caller"),
    [
        pytest.param(STRANGER, (), STRANGER, id="no proxy"),
        pytest.param(STRANGER, (LIAR,), STRANGER, id="a forwarded address from a stranger"),
        pytest.param(NEAR, (), NEAR, id="a proxy without a forwarded address"),
        pytest.param(NEAR, (STRANGER,), STRANGER, id="a proxy"),
        pytest.param(NEAR, (f"{LIAR}, {STRANGER}",), STRANGER, id="a forged address first"),
        pytest.param(NEAR, (f"{LIAR}, {STRANGER}, {FAR}",), STRANGER, id="two proxies"),
        pytest.param(NEAR, (f"{LIAR},{STRANGER}", FAR), STRANGER, id="two lines"),
        pytest.param(NEAR, (f"{FAR}, {FAR}",), FAR, id="only proxies"),
        pytest.param(NEAR, (f"{LIAR}, unknown",), NEAR, id="an unknown address"),
        pytest.param(NEAR, (f"{STRANGER}, ",), NEAR, id="an empty entry"),
        pytest.param(NEAR, (f"{STRANGER}:4711",), STRANGER, id="with a port"),
        pytest.param(NEAR, ("[2001:db8:1:2::9]:4711",), "2001:db8:1:2::/64", id="IPv6 with a port"),
        pytest.param(NEAR, ("2001:db8:1:2:3::",), "2001:db8:1:2::/64", id="IPv6"),
        pytest.param("::ffff:10.0.0.1", (f"::ffff:{STRANGER}",), STRANGER, id="IPv4 on an IPv6 socket"),
        pytest.param(NEAR, ("\xff" * 9000,), NEAR, id="invalid bytes"),
        pytest.param(None, (STRANGER,), "", id="no address at all"),
    ],
)
def test_the_client_is_the_last_address_that_is_not_a_trusted_proxy(
    client: str | None, forwarded: tuple[str, ...], caller: str
) -> None:
    assert TrustedProxies([ip_network("10.0.0.0/30")]).client(a_scope(client, *forwarded)) == caller


def test_without_proxies_no_forwarded_address_is_trusted() -> None:
    assert TrustedProxies().client(a_scope("127.0.0.1", STRANGER)) == "127.0.0.1"


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("198.51.100.7", "198.51.100.7"),
        ("::ffff:198.51.100.7", "198.51.100.7"),
        ("2001:db8:1:2:aaaa::1", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
    ],
)
def test_an_ipv6_network_counts_as_one_client(address: str, name: str) -> None:
    assert peer_name((address, 1)) == name


def test_the_failure_limiter_refuses_after_a_burst_and_recovers() -> None:
    limiter = FailureLimiter(burst=3, per_second=1)

    for _ in range(3):
        assert limiter.allows("a", 0)
        limiter.record("a", 0)

    assert [limiter.allows("a", now) for now in (0, 0.9, 1, 100)] == [False, False, True, True]


def test_the_failure_limiter_counts_each_client_separately() -> None:
    limiter = FailureLimiter(burst=1)

    limiter.record("a", 0)

    assert limiter.allows("b", 0)


def test_reaching_the_failure_limit_is_reported_once_until_recovery() -> None:
    limiter = FailureLimiter(burst=2, per_second=1)

    recorded = [limiter.record("a", now) for now in (0, 0, 1, 2, 10, 10)]

    assert recorded == [False, True, False, False, False, True]


def test_the_failures_of_all_clients_have_a_common_limit() -> None:
    limiter = FailureLimiter(burst=2, total_factor=3, per_second=1)

    for number in range(6):
        assert limiter.allows(f"caller {number}", 0)
        limiter.record(f"caller {number}", 0)

    assert not limiter.allows("another", 0)
    assert limiter.allows("another", 1)


def test_the_remembered_clients_are_limited() -> None:
    limiter = FailureLimiter(burst=2, per_second=1, total_factor=1_000_000, max_clients=100)

    for number in range(10_000):
        if limiter.allows(f"caller {number}", 5):
            limiter.record(f"caller {number}", 5)

    assert len(limiter._buckets) == 100
    assert not limiter.allows("another", 5)
    assert limiter.allows("another", 6)
    assert len(limiter._buckets) == 0
