"""The loops that tests of the web listeners run on."""

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop


def pytest_asyncio_loop_factories(
    config: pytest.Config,  # noqa: ARG001 -- the hook's own name
    item: pytest.Item,
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run every test on the service's loop, and what hangs on a loop's own ways on the standard one too."""
    loops: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"uvloop": uvloop.new_event_loop}
    if item.path.name in ("test_listener.py", "test_stream.py"):
        loops["asyncio"] = asyncio.SelectorEventLoop
    return loops
