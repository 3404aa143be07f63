"""The settings of TLS connections to servers. Loaded at the first one: httpcore2 takes a tenth of a start."""

import ssl


def default_tls() -> ssl.SSLContext:
    """Return a context that trusts the certificates of this system."""
    import httpcore2  # noqa: PLC0415 -- knows where each system keeps its certificates; see above

    return httpcore2.default_ssl_context()
