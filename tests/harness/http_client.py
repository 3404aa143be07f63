"""The HTTP client of the tests."""

import ssl
from typing import Any

from httpx2 import AsyncClient

_NO_CERTIFICATES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def plain_http(**arguments: Any) -> AsyncClient:
    """Return an HTTP client without TLS: loading the machine's certificates takes longer than most tests."""
    return AsyncClient(**{"verify": _NO_CERTIFICATES, "trust_env": False, "timeout": 60, **arguments})
