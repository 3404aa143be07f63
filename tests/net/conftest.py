"""What leaves has to leave the same way on asyncio's own loop and on the one the service runs on."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping

import pytest
import uvloop

from receiver.net.http_client import HttpClient


def pytest_asyncio_loop_factories(
    config: pytest.Config,  # noqa: ARG001  # the hook's
    item: pytest.Item,  # noqa: ARG001  # the hook's
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"asyncio": asyncio.SelectorEventLoop, "uvloop": uvloop.new_event_loop}


@pytest.fixture
async def http_client() -> AsyncIterator[HttpClient]:
    http_client = HttpClient(user_agent="kling-receiver/test")
    yield http_client
    await http_client.aclose()
