"""A client's callback URL that can never be called is refused before the create, without a name lookup."""

from ipaddress import ip_network

import pytest
from data.ssrf_urls import FORBIDDEN, LOOPBACK_SPELLINGS, NOT_PUBLIC

from receiver.domain.errors import InvalidRequest
from receiver.net.dialer import is_literal
from receiver.submission.reply_url import check_reply_url

ADDRESSES = [f"[{address}]" if ":" in address else address for address in [*FORBIDDEN, *NOT_PUBLIC]]
SPELT = [host for host in LOOPBACK_SPELLINGS if is_literal(host.strip("[]"))]


@pytest.mark.parametrize("host", [*ADDRESSES, *SPELT, "localhost", "LOCALHOST.", "app.localhost", "[fe80::1%25eth9]"])
def test_a_private_address_in_any_spelling_is_refused(host: str) -> None:
    with pytest.raises(InvalidRequest, match="`callback_url` cannot be called"):
        check_reply_url(f"http://{host}:8080/hook", ())


@pytest.mark.parametrize("host", ["app.example.com", "8.8.8.8", "10.1.2.3", "localhost.example.com"])
def test_a_public_or_allowed_address_and_a_name_are_accepted(host: str) -> None:
    check_reply_url(f"https://{host}/hook", [ip_network("10.0.0.0/8")])


def test_enough_spellings_of_addresses_are_tested() -> None:
    assert len(SPELT) > 15
