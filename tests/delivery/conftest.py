"""Senders have to work the same way on asyncio's own loop and on the one that the service runs on."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest
import uvloop
from harness.delivery_system import DeliverySystem, a_delivery_system

SENDERS = (
    "test_kept_answers.py",
    "test_orphans.py",
    "test_script.py",
    "test_script_end.py",
    "test_script_start.py",
    "test_webhook.py",
)


def pytest_asyncio_loop_factories(
    config: pytest.Config,  # noqa: ARG001 -- the hook's own name
    item: pytest.Item,
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    if item.path.name in SENDERS:
        return {"asyncio": asyncio.SelectorEventLoop, "uvloop": uvloop.new_event_loop}
    return {"asyncio": asyncio.SelectorEventLoop}


@pytest.fixture
async def system(tmp_path: Path) -> AsyncIterator[DeliverySystem]:
    async with a_delivery_system(tmp_path) as system:
        yield system
