"""Every outgoing HTTP request: client, connection pool, dialer, SSRF guard, downloads."""
