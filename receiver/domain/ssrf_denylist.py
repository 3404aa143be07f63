"""Networks that are never dialled, not even for a URL of the operator's.

They are link-local, or a cloud hands out credentials there to any caller. The guard of :mod:`receiver.net.ssrf_guard`
and the check of the configuration both use this table.
"""

from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import TypeAlias

Network: TypeAlias = IPv4Network | IPv6Network


def network_table(entries: dict[str, str]) -> tuple[tuple[Network, str], ...]:
    """Return pairs of a network and what it is."""
    return tuple((ip_network(network), what) for network, what in entries.items())


SSRF_DENYLIST = network_table(
    {
        "169.254.169.254/32": "a cloud's metadata service",
        "168.63.129.16/32": "Azure's platform address",
        "100.100.100.200/32": "Alibaba Cloud's metadata service",
        "192.0.0.192/32": "Oracle Cloud's metadata service",
        "fd00:ec2::254/128": "the metadata service of AWS",
        "fd00:ec2::23/128": "the credentials service of AWS pods",
        "fd00:42::42/128": "the metadata service of Scaleway",
        "fd20:ce::254/128": "the metadata service of Google Cloud",
        "169.254.0.0/16": "link-local",
        "fe80::/10": "link-local",
    }
)
