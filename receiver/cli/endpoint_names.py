"""Endpoints of commands that send nothing to Kling: found by their path, with a note on a probable typo."""

from difflib import get_close_matches

from receiver.cli import render
from receiver.cli.submit import find_endpoint
from receiver.kling.endpoints import CATALOGUE, Endpoint, resolve

_TYPO = 0.9  # similarity from which an unlisted path is probably a typo of a listed one


def find_named_endpoint(path: str) -> Endpoint:
    """Return the endpoint of a path, listed or not. Raises UsageError if it has no callbacks."""
    endpoint = resolve(path)
    if endpoint is None or endpoint.is_listed:
        return find_endpoint(path)
    if near := _nearest(endpoint.path):
        render.notice(f"{endpoint.path} is not a listed endpoint. Did you mean {near}?")
    return endpoint


def _nearest(path: str) -> str | None:
    """Return the listed path that an unlisted one resembles, else the listed family: ``images/...``."""
    if near := get_close_matches(path, CATALOGUE, n=1, cutoff=_TYPO):
        return near[0]
    families = {each.partition("/")[0] for each in CATALOGUE}
    family = path.partition("/")[0]
    found = [] if family in families else get_close_matches(family, families, n=1)
    return f"{found[0]}/..." if found else None
