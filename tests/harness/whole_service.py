"""The service with everything around it: a simulated Kling, a webhook behind one route, and a client of the API."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
from harness.running_service import Receiver, Sink, a_config, a_kling, a_receiver, a_sink, a_webhook_route

from receiver.kling.simulator import Simulator


class WholeService(NamedTuple):
    """A running service and what is around it."""

    sink: Sink
    kling: Simulator
    receiver: Receiver
    client: httpx2.AsyncClient


@asynccontextmanager
async def a_whole_service(
    folder: Path,
    *,
    more: str = "",
    route: str = "",
    kling_path: str = "",
    kling_more: str = "",
    public_url: str = "@PUBLIC@",
    **kling: Any,
) -> AsyncIterator[WholeService]:
    """Run a service with one route to a webhook. *route* adds keys to it, *more* sections to the configuration.

    *kling* are options of the simulated Kling. The service calls it below *kling_path*.
    """
    async with a_sink() as sink, a_kling(**kling) as simulator:
        config = a_config(
            f"{simulator.url}{kling_path}",
            kling_more=kling_more,
            public_url=public_url,
            more=more + a_webhook_route(sink, extra=route),
        )
        async with a_receiver(folder, config) as receiver, receiver.client() as client:
            yield WholeService(sink, simulator, receiver, client)
