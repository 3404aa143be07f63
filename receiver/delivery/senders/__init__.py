"""One sender per kind of destination: webhook and script."""
