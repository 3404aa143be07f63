"""Simulators with a client, and a receiver of their callbacks."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from harness.clock import FakeClock
from harness.http_client import plain_http
from harness.simulator_caller import CallbackReceiver, SimulatorClient, Start

from receiver.kling.simulator import Options, serve


@pytest.fixture
async def callback_receiver() -> AsyncIterator[CallbackReceiver]:
    callback_receiver = CallbackReceiver()
    server = await asyncio.start_server(callback_receiver.serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    callback_receiver.url = f"http://{host}:{port}/callbacks/t"
    async with server:
        yield callback_receiver


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Start simulators whose tasks end at once, unless the options set a duration."""
    async with AsyncExitStack() as stack:

        async def start(**given: object) -> SimulatorClient:
            quick = {"submitted_for": 0, "processing_for": 0, "seed": 7}
            clock = FakeClock()
            simulator = await stack.enter_async_context(serve(Options.parse(quick | given), clock=clock))
            headers = {"authorization": "Bearer key"}
            client = plain_http(base_url=simulator.url, headers=headers)
            return SimulatorClient(simulator, clock, await stack.enter_async_context(client))

        yield start
