"""A connection parsed by httptools, which is fast and has no limits of its own.

The parser leaves three things to us: offers of another protocol, which are ignored; request targets that name a host;
and versions of HTTP other than 1.0 and 1.1.
"""

import sys
from functools import partial
from typing import Any, NoReturn

import httptools
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http import httptools_impl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from receiver.web.server.allowed_hosts import without_port
from receiver.web.server.connections import BoundedConnection, RequestPart
from receiver.web.server.rejections import (
    ANSWERED,
    BAD_HTTP,
    BAD_VERSION,
    HEAD_TOO_LARGE,
    MISDIRECTED,
    TOO_MANY_PIECES,
    TOO_MANY_PIPELINED,
    Rejection,
)
from receiver.web.server.request_groups import Headers, WholeRequest

SENDING_ENDED = "receiver.sending_ended"
"""The member of an ASGI scope that says that the client closed its sending side. Most such clients have left."""

RESPOND = "receiver.respond"
"""The member of an ASGI scope that sends a complete response in one packet: status, headers and body.

uvicorn sends the head and the body apart. That costs a second system call, and the client wakes up twice.
"""

_VERSIONS = ("1.1", "1.0")
_FREE_PIECES = 10_000
_MIN_PIECE_BYTES = 64  # on average, of further pieces
_OFFER_TOKENS = frozenset({b"upgrade", b"http2-settings"})


class HttptoolsConnection(BoundedConnection, httptools_impl.HttpToolsProtocol):
    """A connection of uvicorn's fast parser, with our limits."""

    _request_part = RequestPart.NONE
    _current_cycle: Any = None  # the oldest cycle without a complete response
    _data: bytes = b""  # what is being parsed
    _is_offer: bool = False  # whether this request offers another protocol
    _pieces: int = 0  # of the current body
    _body_bytes: int = 0
    _drained_bytes: int = 0
    _began_in_data: bool = False  # whether all of the head that was read is in `_data`
    _for_group: Any = None  # the cycle of a request that a group answers if its body follows in the same data

    def request_part(self) -> RequestPart:
        """Return the part of a request that is being received."""
        return self._request_part

    def has_pipelined(self) -> bool:
        """Return whether a request waits for the response to an earlier one."""
        return bool(self.pipeline)

    def start_pipelined(self) -> None:
        """Start the oldest waiting request. uvicorn would also set a timer, which the deadlines replace."""
        if self.pipeline:
            self._start_alone(*self.pipeline.pop())

    def data_received(self, data: bytes) -> None:
        """Parse data of a request, and check the limits."""
        self._is_all_framing = True
        self._data = data
        super().data_received(data)
        self._data = b""
        self._began_in_data = False
        if self._for_group is not None:  # its body has not arrived yet
            cycle, self._for_group = self._for_group, None
            self._start_alone(cycle, self.app)

    def eof_received(self) -> bool:  # type: ignore[override]  # uvicorn narrows asyncio's result to None
        """Keep the connection open for outstanding responses if the client closed its sending side.

        After a response has started, this means that the client left: only so are endless streams ended at once.
        """
        if not self._is_responding() or self._current_cycle.response_started:
            return False
        self.cycle.keep_alive = False
        self._current_cycle.scope[SENDING_ENDED] = True
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Remove the connection, and notify the oldest request's app; uvicorn notifies only the newest one's."""
        super().connection_lost(exc)
        if self._current_cycle is not None and not self._current_cycle.response_complete:
            self._current_cycle.disconnected = True
            self._current_cycle.message_event.set()
        for cycle in (self._current_cycle, self.cycle, *(waiting for waiting, _ in self.pipeline)):
            _free_body(cycle)

    def on_message_begin(self) -> None:
        """Record the start of a request, and refuse it if too many are pipelined."""
        is_ahead = self.cycle is not None and not self.cycle.response_complete
        if is_ahead and len(self.pipeline) >= self.registry.limits.pipelined:
            self._stop_parsing(TOO_MANY_PIPELINED)
        self._request_part = RequestPart.HEAD
        self._is_offer = False
        self._began_in_data = True
        self._pieces = self._body_bytes = self._drained_bytes = 0
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Add a header field, and refuse trailers and too many fields."""
        if self._request_part is RequestPart.BODY:
            self._stop_parsing(BAD_HTTP)
        if len(self.headers) >= self.registry.limits.head_fields:
            self._stop_parsing(HEAD_TOO_LARGE)
        name = name.lower()  # the rest is what uvicorn does; a callback has a dozen fields
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Record the end of the head, and start the request."""
        if self.parser.get_http_version() not in _VERSIONS:
            self._stop_parsing(BAD_VERSION)
        if self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT":
            self._is_offer = True  # the parser stops after this head
            return
        if self.url[:1] not in (b"/", b"*"):
            self._resolve_absolute_target()
        super().on_headers_complete()
        self._request_part = RequestPart.BODY
        if not self.pipeline:
            self._current_cycle = self.cycle

    def on_body(self, body: bytes) -> None:
        """Add data to the body, or discard it if the request was already answered."""
        self._is_all_framing = False
        self._pieces += 1
        self._body_bytes += len(body)
        if self._pieces > _FREE_PIECES + self._body_bytes // _MIN_PIECE_BYTES:
            self._stop_parsing(TOO_MANY_PIECES)
        if self.cycle.response_complete:
            self._drained_bytes += len(body)
            if self._drained_bytes > self.registry.limits.drained_bytes:
                self._stop_parsing(ANSWERED)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Record the end of the request."""
        if self._is_offer:
            return
        self._request_part = RequestPart.NONE
        super().on_message_complete()
        if self._for_group is not None:
            cycle, self._for_group = self._for_group, None
            self.registry.groups.add(WholeRequest(cycle.scope, bytes(cycle.body), partial(self._respond, cycle)))

    def on_response_complete(self) -> None:
        """Start waiting for the next request, or continue with a pipelined one."""
        _free_body(self._current_cycle)  # what the app did not read
        if self.pipeline:
            self._current_cycle = self.pipeline[-1][0]
        super().on_response_complete()

    def _start_asgi_task(self, cycle: httptools_impl.RequestResponseCycle, app: ASGI3Application) -> None:
        """Start a request, unless a group may answer it."""
        is_small = self._began_in_data and len(self._data) <= self.registry.limits.head_bytes
        if is_small and not self.flow.write_paused and self.registry.groups.takes(cycle.scope):  # type: ignore[arg-type]  # a TypedDict
            self._for_group = cycle
        else:
            self._start_alone(cycle, app)

    def _start_alone(self, cycle: httptools_impl.RequestResponseCycle, app: ASGI3Application) -> None:
        cycle.scope[RESPOND] = partial(self._respond_unless_full, cycle)  # type: ignore[literal-required]  # ours
        super()._start_asgi_task(cycle, app)

    def _respond_unless_full(
        self, cycle: httptools_impl.RequestResponseCycle, status: int, headers: Headers, body: bytes
    ) -> bool:
        """Send a complete response in one piece. Return False if the app must use ``send``, which can wait."""
        if self.flow.write_paused or cycle.scope["method"] == "HEAD":
            return False
        self._respond(cycle, status, headers, body)
        return True

    def _respond(self, cycle: httptools_impl.RequestResponseCycle, status: int, headers: Headers, body: bytes) -> None:
        if cycle.disconnected:
            return
        fields = [*self.server_state.default_headers, *headers]
        if not cycle.keep_alive:
            fields.append((b"connection", b"close"))
        parts = [STATUS_LINE[status]]
        for name, value in fields:
            parts += (name, b": ", value, b"\r\n")
        parts += (b"\r\n", body)
        self.transport.write(b"".join(parts))
        cycle.response_started = cycle.response_complete = True
        cycle.message_event.set()
        if not cycle.keep_alive:
            self.transport.close()
        cycle.on_response()

    def _stop_parsing(self, rejection: Rejection) -> NoReturn:
        self._parse_rejection = rejection
        raise ValueError(rejection.code)  # an exception in a callback is the only way to stop this parser

    def _resolve_absolute_target(self) -> None:
        """Replace a target such as ``http://host/path`` by its path, and refuse another host than the Host header's.

        A proxy may route by one of the two, and we check the other.
        """
        target = httptools.parse_url(self.url)
        named = (target.host or b"").lower()
        hosts = [value for name, value in self.headers if name == b"host"]
        if not hosts:
            self.headers.append((b"host", named))
        elif any(without_port(host.decode("latin-1")).lower().encode("latin-1") != named for host in hosts):
            self._stop_parsing(MISDIRECTED)
        self.url = (target.path or b"/") + (b"?" + target.query if target.query else b"")

    def _unsupported_upgrade_warning(self) -> None:
        """Serve a request that offers another protocol as if it did not (RFC 9110, section 7.8).

        The parser skips the body of such a request and stops. So a new parser reads the same head without the offer,
        and then the rest. uvicorn calls this while it handles the parser's exception, which has the head's end.
        """
        stopped = sys.exception()
        if not self._is_offer or not isinstance(stopped, httptools.HttpParserUpgrade):
            self.cycle.keep_alive = False
            return
        rest = self._data[stopped.args[0] :]
        head = self._head_without_offer()
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn sets it
        self._data = head + rest
        httptools_impl.HttpToolsProtocol.data_received(self, self._data)

    def _head_without_offer(self) -> bytes:
        version = self.parser.get_http_version().encode()
        lines = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, version)]
        for name, value in self.headers:
            if name == b"connection":
                kept = [token for token in value.split(b",") if token.strip().lower() not in _OFFER_TOKENS]
                lines += [b"connection: " + b",".join(kept)] if kept else []
            elif name not in _OFFER_TOKENS:
                lines.append(name + b": " + value)
        return b"\r\n".join(lines) + b"\r\n\r\n"


def _free_body(cycle: httptools_impl.RequestResponseCycle | None) -> None:
    """Free the memory of a body that nothing reads any more."""
    if cycle is not None:
        cycle.body = bytearray()
