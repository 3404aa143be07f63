"""One sender per kind of destination."""
