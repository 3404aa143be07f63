"""Parses addresses, networks and URLs of the configuration, and rejects destinations that are never allowed.

The readers follow :mod:`receiver.settings.values`. A URL may contain a secret, so no error quotes one.
"""

import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import SplitResult, urlsplit

import msgspec

from receiver.domain.ssrf_denylist import SSRF_DENYLIST
from receiver.settings.values import InvalidValue, quoted, read_text

_HOST_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,252})")
_PORT = re.compile(r"[0-9]{1,5}")
_MAX_PORT = 65535

_FORBIDDEN_HOSTS = frozenset({"metadata", "metadata.google.internal", "metadata.goog", "instance-data"})


class Address(msgspec.Struct, frozen=True):
    """Host and port of a listener."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def clashes_with(self, other: "Address") -> bool:
        """Whether two listeners cannot use both; port 0 means any free port and never clashes."""
        everywhere = {"0.0.0.0", "::"}  # noqa: S104 -- compared, not bound
        same_host = self.host == other.host or bool({self.host, other.host} & everywhere)
        return self.port == other.port != 0 and same_host


def read_address(raw: object) -> Address:
    """Parse ``127.0.0.1:8700``, ``[::1]:8700`` or ``localhost:8700``; port 0 means any free port."""
    if isinstance(raw, Address):
        return raw
    text = read_text(raw)
    host, colon, port = text.rpartition(":")
    if not colon or not host:
        raise InvalidValue(f'{quoted(text)} must be an address and a port, such as "127.0.0.1:8700"')
    if not _PORT.fullmatch(port) or int(port) > _MAX_PORT:
        raise InvalidValue(f"{quoted(text)} must end in a port, 1 to 65535, or 0 for any free port")
    return Address(_listening_host(host), int(port))


def _listening_host(host: str) -> str:
    if host.startswith("[") and host.endswith("]"):
        try:
            return str(IPv6Address(host[1:-1]))
        except ValueError:
            raise InvalidValue(f"{quoted(host)} is not an IPv6 address") from None
    if ":" in host:
        raise InvalidValue(f'an IPv6 address must be in brackets: "[{host}]:PORT"')
    if re.fullmatch(r"[0-9.]+", host):
        try:
            return str(IPv4Address(host))
        except ValueError:
            raise InvalidValue(f"{quoted(host)} is not an IPv4 address") from None
    if not _HOST_NAME.fullmatch(host):
        raise InvalidValue(f"{quoted(host)} is neither an address nor a host name")
    return host.lower()


def read_host_name(raw: object) -> str:
    """Parse the name or address by which clients reach a listener, such as ``tasks.example.com``."""
    text = read_text(raw)
    name = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if isinstance(_parse_ip(name), IPv6Address):
        return name.lower()
    try:
        ascii_name = name.encode("idna").decode()
    except UnicodeError:
        ascii_name = ""
    if not _HOST_NAME.fullmatch(ascii_name):
        raise InvalidValue(
            f'{quoted(text)} is not a host name; write it without scheme, port and path: "tasks.example.com"'
        )
    return name.lower()


def read_network(raw: object) -> IPv4Network | IPv6Network:
    """Parse a network to which clients' URLs may lead, such as ``"10.0.0.0/8"``; an address is a network of one."""
    network = _read_network(raw)
    if network.prefixlen == 0:
        raise InvalidValue("would allow every private address; list only the networks you need")
    if any(_is_subnet(network, forbidden) for forbidden, _ in SSRF_DENYLIST):
        raise InvalidValue(f"{network} is link-local or cloud metadata, which is never dialled; remove it")
    return network


def read_proxies(raw: object) -> IPv4Network | IPv6Network:
    """Parse a network of your own proxies, such as ``"10.0.0.0/8"``; an address is a network of one."""
    network = _read_network(raw)
    if network.prefixlen == 0:
        raise InvalidValue("would trust X-Forwarded-For from every client; list only your own proxies")
    return network


def _read_network(raw: object) -> IPv4Network | IPv6Network:
    if isinstance(raw, IPv4Network | IPv6Network):
        return raw
    text = read_text(raw)
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        raise InvalidValue(f'{quoted(text)} is not a network; write it like "10.0.0.0/8" or "fd00::/8"') from None
    if "/" in text and str(network.network_address) != str(ip_address(text.partition("/")[0])):
        raise InvalidValue(f'{quoted(text)} has bits beyond its mask; did you mean "{network}"?')
    return network


def _is_subnet(network: IPv4Network | IPv6Network, other: IPv4Network | IPv6Network) -> bool:
    if isinstance(network, IPv4Network):
        return isinstance(other, IPv4Network) and network.subnet_of(other)
    return isinstance(other, IPv6Network) and network.subnet_of(other)


def read_optional_url(raw: object) -> str:
    """Parse a base URL; an empty string stays empty."""
    return "" if raw == "" else _read_base_url(raw)


def read_kling_url(raw: object) -> str:
    """Parse the base URL of Kling's API."""
    url = _read_base_url(raw)
    if url.endswith("/v1"):
        raise InvalidValue("must not end in /v1, because Kling's paths begin with it")
    return url


def _read_base_url(raw: object) -> str:
    text = read_text(raw)
    check_url(text)
    if "?" in text:
        raise InvalidValue("must not have a query (?...)")
    return text.rstrip("/")


def check_url(text: str) -> None:
    """Raise InvalidValue unless this is a plain http(s) URL of an allowed host. The error never quotes the URL."""
    parts = _split(text)
    if parts.scheme not in ("http", "https"):
        raise InvalidValue('must begin with "https://" or "http://"')
    if not text.isprintable() or " " in text:
        raise InvalidValue("must not contain spaces or control characters")
    if "@" in parts.netloc:
        raise InvalidValue("must not contain a user and a password; put them into a header by reference")
    if "#" in text:
        raise InvalidValue("must not have a fragment (#...)")
    if not parts.hostname:
        raise InvalidValue('has no host; write it like "https://app.example.com/path"')
    if _is_forbidden(parts.hostname):
        raise InvalidValue("points to a link-local or cloud-metadata address, which is never dialled")


def _split(text: str) -> SplitResult:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise InvalidValue("is not a URL: its host or port is invalid") from None
    if port == 0:
        raise InvalidValue("is not a valid URL: port 0 is not allowed")
    return parts


def _is_forbidden(host: str) -> bool:
    if host.lower().rstrip(".") in _FORBIDDEN_HOSTS:
        return True
    address = _parse_ip(host)
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    if address is None:
        return False
    return address.is_multicast or any(address in network for network, _ in SSRF_DENYLIST)


def is_loopback(host: str) -> bool:
    """Whether *host*, as written, is a loopback address."""
    address = _parse_ip(host)
    return address.is_loopback if address else host == "localhost" or host.endswith(".localhost")


def _parse_ip(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host.partition("%")[0])
    except ValueError:
        return None
