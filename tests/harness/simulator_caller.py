"""A client of the simulator, and a receiver of its callbacks."""

import asyncio
import json
import re
from collections.abc import Callable
from typing import Any, TypeAlias

import httpx2 as httpx
from harness.clock import FakeClock
from harness.waiting import wait_until

from receiver.kling.simulator import Simulator

Json: TypeAlias = dict[str, Any]
Start: TypeAlias = Callable[..., Any]
IMAGES = "/v1/images/multi-image2image"
URL_IMAGE = {"subject_image": "https://images.example.com/a.png"}


class CallbackReceiver:
    """Takes callbacks on a socket of its own: what came, in order, and whether to answer."""

    def __init__(self) -> None:
        self.received: list[tuple[dict[str, str], bytes]] = []
        self.status = 200
        self.gate = asyncio.Event()
        self.gate.set()
        self.url = ""

    @property
    def bodies(self) -> list[Json]:
        return [json.loads(body) for _, body in self.received]

    @property
    def statuses(self) -> list[str]:
        return [body.get("task_status") or body["status"] for body in self.bodies]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        headers = {name.lower(): value for name, value in re.findall(r"(?m)^([\w-]+): *(.*?)\r$", head)}
        body = await reader.readexactly(int(headers["content-length"]))
        self.received.append((headers, body))
        await self.gate.wait()
        writer.write(f"HTTP/1.1 {self.status} OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n".encode())
        writer.close()


class SimulatorClient:
    """A client of one simulator, and the clock that simulator goes by."""

    def __init__(self, simulator: Simulator, clock: FakeClock, client: httpx.AsyncClient) -> None:
        self.simulator = simulator
        self.clock = clock
        self.client = client

    async def create(self, path: str = IMAGES, **body: object) -> Json:
        if path == IMAGES:
            body = {"subject_image_list": [URL_IMAGE]} | body
        answer = await self.client.post(path, json=body)
        assert answer.status_code == 200, answer.text
        data: Json = answer.json()["data"]
        return data

    async def query(self, path: str, reference: str) -> Json:
        answer = await self.client.get(f"{path}/{reference}")
        assert answer.status_code == 200, answer.text
        data: Json = answer.json()["data"]
        return data

    async def set_faults(self, **given: object) -> None:
        answer = await self.client.post("/_simulator/faults", json=given)
        assert answer.status_code == 200, answer.text

    async def state(self) -> Json:
        state: Json = (await self.client.get("/_simulator/state")).json()
        return state

    async def wait_until_announced(self, count: int = 1) -> None:
        """Wait until so many tasks have come to their end and all was said of them."""
        await wait_until(lambda: sum(task["told"] for task in self.simulator.state()["tasks"]) >= count)
