"""The event loops of the web tests."""

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop


def pytest_asyncio_loop_factories(
    config: pytest.Config,  # noqa: ARG001 -- the hook's own name
    item: pytest.Item,
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run every test on uvloop, as the service does, and tests that depend on the loop on asyncio's own loop too."""
    loops: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"uvloop": uvloop.new_event_loop}
    if item.path.name in (
        "test_deadlines.py",
        "test_listener.py",
        "test_listener_protocol.py",
        "test_pipelining.py",
        "test_stream.py",
    ):
        loops["asyncio"] = asyncio.SelectorEventLoop
    return loops
