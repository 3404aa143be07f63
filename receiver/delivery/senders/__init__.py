"""One sender per kind of destination: webhook, script and notify."""
