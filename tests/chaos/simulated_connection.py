"""One connection of the simulated network with an HTTP peer: slow, fragmented, cut off, or silent."""

import asyncio
import socket
from collections.abc import Callable
from contextvars import Context
from random import Random
from typing import Any, Protocol, TypeAlias

import h11

from receiver.net.http_client import HttpResponse

Handler: TypeAlias = Callable[[str, str, dict[str, str], bytes], HttpResponse]
"""What a peer does with a request that has arrived: method, path, headers, body."""

_MIN_GAP_SECONDS = 1e-6
_DISCONNECT_PROBABILITY = 0.1
_IDLE_SECONDS = 6.0


class LinkConditions(Protocol):
    """Current conditions of a link."""

    latency: float
    loss_rate: float


class SimulatedConnection(asyncio.Transport):
    """Carries bytes in both directions, delayed and in order. After a close nothing more arrives."""

    def __init__(
        self,
        protocol: asyncio.Protocol,
        handler: Handler,
        *,
        rng: Random,
        sock: socket.socket,
        idle_sock: socket.socket,
        conditions: LinkConditions,
        on_data_in_flight: Callable[[], None],
    ) -> None:
        """Connect the caller's *sock* with a peer; *quiet* is a socket that never becomes readable."""
        super().__init__({"socket": idle_sock})
        self._rng = rng
        self._sock = sock
        self._protocol = protocol
        self._handler = handler
        self._conditions = conditions
        self._on_data_in_flight = on_data_in_flight
        self._loop = asyncio.get_running_loop()
        self._http = h11.Connection(h11.SERVER)
        self._request: h11.Request | None = None
        self._body = bytearray()
        self._last = 0.0
        self._closed = False

    # Called by the client.

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._after(self._rng.expovariate(1 / self._conditions.latency), self._on_data, bytes(data))
        self._on_data_in_flight()

    def is_closing(self) -> bool:
        return self._closed

    def pause_reading(self) -> None:
        """Do nothing: peers send little."""

    def resume_reading(self) -> None:
        """Do nothing: peers send little."""

    def abort(self) -> None:
        self._disconnect(None)

    close = abort

    # Called later, by the loop.

    def _after(self, seconds: float, do: Callable[..., None], *args: Any) -> None:
        """Call a function later, never before an earlier call. It runs even if its caller has died."""
        self._last = max(self._last + _MIN_GAP_SECONDS, self._loop.time() + seconds)
        self._loop.call_at(self._last, do, *args, context=Context())

    def _on_data(self, data: bytes) -> None:
        if self._closed:  # bytes that arrive after the close are lost
            return
        self._http.receive_data(data)
        while not isinstance(event := self._http.next_event(), type(h11.NEED_DATA) | type(h11.PAUSED)):
            match event:
                case h11.Request():
                    self._request = event
                    self._body.clear()
                case h11.Data():
                    self._body += event.data
                case h11.EndOfMessage():
                    self._respond()

    def _respond(self) -> None:
        request = self._request
        assert request is not None
        headers = {name.decode().lower(): value.decode() for name, value in request.headers}
        reply = self._handler(request.method.decode(), request.target.decode(), headers, bytes(self._body))
        data = self._serialize(reply)
        back = self._rng.expovariate(1 / self._conditions.latency)
        if self._rng.random() < self._conditions.loss_rate:
            self._drop(data, back)
            return
        cut = self._rng.randrange(len(data))
        self._after(back, self._deliver, data[:cut])
        self._after(self._rng.choice([0.0, back]), self._deliver, data[cut:])
        if self._rng.random() < _DISCONNECT_PROBABILITY:
            self._after(self._rng.random() * _IDLE_SECONDS, self._disconnect, None)

    def _serialize(self, reply: HttpResponse) -> bytes:
        lines = [*reply.headers.items(), ("content-length", str(len(reply.body)))]
        response = h11.Response(status_code=reply.status, headers=lines)
        parts = [self._http.send(part) or b"" for part in (response, h11.Data(data=reply.body), h11.EndOfMessage())]
        self._http.start_next_cycle()
        return b"".join(parts)

    def _drop(self, data: bytes, back: float) -> None:
        """Lose the answer: cut it off, reset the connection, or send nothing."""
        match self._rng.randrange(3):
            case 0:
                self._after(back, self._deliver, data[: self._rng.randrange(len(data))])
                self._after(0.0, self._disconnect, None)
            case 1:
                self._after(back, self._disconnect, ConnectionResetError("reset"))
            case _:
                pass

    def _deliver(self, data: bytes) -> None:
        if not self._closed and data:
            self._protocol.data_received(data)

    def _disconnect(self, error: Exception | None) -> None:
        if not self._closed:
            self._closed = True
            self._sock.close()
            self._loop.call_soon(self._protocol.connection_lost, error)
