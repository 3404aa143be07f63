"""A TCP proxy that stalls, cuts and breaks the connections to a server, like a bad network."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

_BLOCK = 64 * 1024


class TcpProxy:
    """Forwards connections to a port of this machine until it is told to do worse."""

    def __init__(self, port: int) -> None:
        self.port = 0
        self._flows = asyncio.Event()
        self._flows.set()
        self.cut_after: Callable[[bytes], bool] = lambda _sent: False
        """Cuts a connection after these bytes of a client were forwarded, before the answer to them."""
        self.cut_before: Callable[[bytes], bool] = lambda _sent: False
        """Cuts a connection before these bytes of a client are forwarded."""
        self.change_answer: Callable[[bytes], bytes] = lambda block: block
        self.cuts = 0
        self._server_port = port
        self._writers: set[asyncio.StreamWriter] = set()
        self._connections: set[asyncio.Task[None]] = set()

    def stall(self) -> None:
        """Receive bytes without forwarding them, in existing connections and new ones."""
        self._flows.clear()

    def flow(self) -> None:
        """Forward bytes again."""
        self._flows.set()

    def cut_all(self) -> None:
        """Cut every connection."""
        for writer in list(self._writers):
            writer.transport.abort()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward one connection."""
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        with suppress(OSError):
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._server_port)
            swallow_answer = asyncio.Event()
            ends = {writer, server_writer}
            self._writers |= ends
            try:
                async with asyncio.TaskGroup() as directions:
                    directions.create_task(self._forward_requests(reader, server_writer, swallow_answer))
                    directions.create_task(self._forward_answers(server_reader, writer, swallow_answer))
            except* (OSError, EOFError):
                pass
            finally:
                for each in ends:
                    each.transport.abort()
                self._writers -= ends
        self._connections.discard(task)

    async def _forward_requests(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, swallow_answer: asyncio.Event
    ) -> None:
        while block := await source.read(_BLOCK):
            await self._flows.wait()
            if self.cut_before(block):
                self.cuts += 1
                break
            if self.cut_after(block):
                swallow_answer.set()
            target.write(block)
            await target.drain()
        raise EOFError

    async def _forward_answers(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, swallow_answer: asyncio.Event
    ) -> None:
        while block := await source.read(_BLOCK):
            await self._flows.wait()
            if swallow_answer.is_set():
                self.cuts += 1
                break
            target.write(self.change_answer(block))
            await target.drain()
        raise EOFError

    async def aclose(self) -> None:
        """End every connection."""
        self.cut_all()
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)


@asynccontextmanager
async def a_tcp_proxy(port: int, *, listen: int = 0) -> AsyncIterator[TcpProxy]:
    """Run a proxy to *port*, on any port or on *listen*; its own port is ``proxy.port``."""
    proxy = TcpProxy(port)
    server = await asyncio.start_server(proxy.accept, "127.0.0.1", listen)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        await proxy.aclose()
