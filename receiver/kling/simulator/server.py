"""Runs the simulator as a server with a graceful stop."""

import asyncio
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from random import Random

import structlog
import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from receiver.domain.clock import Clock, SystemClock
from receiver.kling.simulator.account import Simulator
from receiver.kling.simulator.api import HANG_UP, Api
from receiver.kling.simulator.observer import Observer, ignore
from receiver.kling.simulator.options import Options

_BACKLOG = 1024
_GRACE_SECONDS = 2

log = structlog.get_logger()


def make_app(simulator: Simulator) -> Starlette:
    """Return the ASGI app of a simulator; the caller enters, runs and stops it."""
    return Api(simulator).app()


@asynccontextmanager
async def serve(
    options: Options, *, clock: Clock | None = None, rng: Random | None = None, observer: Observer = ignore
) -> AsyncIterator[Simulator]:
    """Serve a simulator inside the block; its ``url`` has the actual port."""
    with _bound_socket(options.listen) as listener:
        random = rng or Random(options.seed)  # noqa: S311 - repeatable from a seed, on purpose
        simulator = Simulator(
            options, clock=clock or SystemClock(), rng=random, base_url=_url(listener), observer=observer
        )
        server = _Server(make_app(simulator))
        async with simulator:
            running = [asyncio.create_task(simulator.run()), asyncio.create_task(server.serve(sockets=[listener]))]
            for each in running:
                each.add_done_callback(lambda _: simulator.stop())  # if one ends, all end
            try:
                await asyncio.wait(
                    [*running, opened := asyncio.ensure_future(server.opened.wait())],
                    return_when=asyncio.FIRST_COMPLETED,
                )
                opened.cancel()
                yield simulator
            finally:
                simulator.stop()
                server.should_exit = True
                await asyncio.gather(*running)


def run(listen: str, *, observer: Observer | None = None, **options: object) -> None:
    """Serve a simulator until SIGINT or SIGTERM, with one log line per event.

    *options* are fields of :class:`Options` and :class:`Faults`, as values or text: ``processing_for="5s"``,
    ``drop="30%"``, ``refuse="1303:3,502"``. An invalid one raises ValueError before the socket is bound.
    """
    asyncio.run(_run(Options.parse({**options, "listen": listen}), observer or log.info))


async def _run(options: Options, observer: Observer) -> None:
    async with serve(options, observer=observer) as simulator:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, simulator.stop)
        observer("simulator.started", url=simulator.url)
        await simulator.stopping.wait()
    observer("simulator.stopped", url=simulator.url)


class _Protocol(HttpToolsProtocol):
    """Lets a request close its own connection, which ASGI does not support."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # uvicorn narrows it so, too
        super().connection_made(transport)
        self.app_state = {**self.app_state, HANG_UP: transport.close}


class _Server(uvicorn.Server):
    """A uvicorn server that does not handle signals and sets ``opened`` after startup."""

    def __init__(self, app: Starlette) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=_Protocol,
                ws="none",
                proxy_headers=False,
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                backlog=_BACKLOG,
                timeout_graceful_shutdown=_GRACE_SECONDS,
            )
        )
        self.opened = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.opened.set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextmanager
def _bound_socket(listen: str) -> Iterator[socket.socket]:
    host, _, port = listen.rpartition(":")
    if not host or not port.isdigit():
        raise ValueError(f'listen must be an address and a port, such as "127.0.0.1:8790", not {listen!r}')
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, int(port)), family=family, backlog=_BACKLOG) as listener:
        yield listener


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
