"""Refuses a client's own callback URL that can never be called, before the create is paid."""

from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network
from urllib.parse import urlsplit

from receiver.domain.errors import AddressBlocked, InvalidRequest
from receiver.net.dialer import literal_addresses
from receiver.net.ssrf_guard import PublicGuard


def check_reply_url(url: str, allow: Sequence[IPv4Network | IPv6Network]) -> None:
    """Raise InvalidRequest if the URL names an address that is not public and not in *allow*.

    Only addresses, in any spelling, and ``localhost`` are checked here: a name may lead elsewhere by the time of the
    delivery, when the dialled address is checked again.
    """
    host = (urlsplit(url).hostname or "").partition("%")[0].removesuffix(".")
    if host == "localhost" or host.endswith(".localhost"):
        host = "127.0.0.1"
    try:
        PublicGuard(allow).check(host, literal_addresses(host))
    except AddressBlocked as exc:
        raise InvalidRequest(f"`callback_url` cannot be called: {exc.message}", remedy=exc.remedy) from exc
