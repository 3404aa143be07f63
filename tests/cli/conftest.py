"""A fake service with prepared answers, and a configuration that leads to it."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from harness.fake_api import TOKEN, FakeService
from harness.ports import free_port
from harness.waiting import wait_until


@pytest.fixture
def service() -> Iterator[FakeService]:
    """Run the service that answers as told."""
    service = FakeService(port=free_port())
    server = uvicorn.Server(
        uvicorn.Config(service.app(), port=service.port, log_level="critical", timeout_graceful_shutdown=1)
    )
    started = threading.Event()

    async def serve() -> None:
        task = asyncio.create_task(server.serve())
        await wait_until(lambda: server.started)
        started.set()
        await task

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert started.wait(10)
    try:
        yield service
    finally:
        service.end_stream()
        server.should_exit = True
        thread.join()


@pytest.fixture
def config(tmp_path: Path, service: FakeService) -> Path:
    """Write the configuration the service runs on."""
    return write_config(tmp_path, service.port)


def write_config(folder: Path, port: int) -> Path:
    path = folder / "config.toml"
    path.write_text(f'[admin]\nlisten = "127.0.0.1:{port}"\n[store]\nurl = "sqlite:receiver.db"\n')
    (folder / "admin-token").write_text(TOKEN + "\n")
    return path


@pytest.fixture
def silent_port() -> Iterator[int]:
    """Listen on a port, and never answer."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]
