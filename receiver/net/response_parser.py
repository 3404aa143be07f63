"""Parse the responses on one connection with httptools, within limits on everything that is not a body.

Like browsers, it accepts lines that end without a carriage return. A response that leaves its end in doubt is valid
for this request, but its connection is not reused.
"""

from collections import deque
from http import HTTPStatus

import httptools
import msgspec

MAX_HEAD = 100 * 1024
"""The most bytes of a head, and of anything else that is not a body: trailers and chunk sizes."""

_FINAL = 200  # statuses below are informational
_WITHOUT_BODY = (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED)


class InvalidResponse(Exception):  # the name says enough; it never leaves this package
    """The peer sent something that is not a valid HTTP response."""


class IncomingResponse(msgspec.Struct, eq=False):
    """A response that is still arriving. Header names are in lower case; repeated headers are joined.

    ``keeps_alive`` is only known when the response ``is_complete``.
    """

    to_head_request: bool = False
    status: int = 0
    headers: dict[str, str] = msgspec.field(default_factory=dict)
    chunks: deque[bytes] = msgspec.field(default_factory=deque)
    buffered: int = 0
    has_head: bool = False
    is_complete: bool = False
    keeps_alive: bool = False


class ResponseParser:
    """Parses one response after another. ``response`` is the one that arrives now."""

    def __init__(self) -> None:
        self.response = IncomingResponse()
        self._parser = httptools.HttpResponseParser(self)
        self._parser.set_dangerous_leniencies(lenient_chunked_length=True, lenient_optional_cr_before_lf=True)
        self._overhead = 0  # bytes since the last part of a body
        self._ends_with_connection = False

    def expect_response(self, *, to_head_request: bool) -> None:
        """Expect the response to the next request."""
        if self.response.is_complete:
            self.response = IncomingResponse()
        self.response.to_head_request = to_head_request
        self._overhead = 0

    def feed(self, data: bytes) -> None:
        """Parse *data*. Raises InvalidResponse."""
        self._overhead += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as exc:
            self.response.keeps_alive = False
            if not self.response.is_complete:  # else it is about bytes after the response, which are ignored
                raise InvalidResponse from exc
        if self._overhead > MAX_HEAD and not self.response.is_complete:
            raise InvalidResponse

    def feed_eof(self) -> None:
        """Note that the peer has ended, which completes a body without a length."""
        if self.response.has_head and self._ends_with_connection:
            self.response.is_complete = True

    def close(self) -> None:
        """Release the parser, which refers to this object."""
        del self._parser

    # Called by httptools.

    def on_message_begin(self) -> None:
        """Begin a response. After the one to our request, it makes the connection unusable."""
        self.response.keeps_alive = False

    def on_header(self, raw_name: bytes, raw_value: bytes) -> None:
        """Keep a header. Trailers are ignored."""
        response = self.response
        if response.has_head:
            return
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1").strip()
        headers = response.headers
        headers[name] = f"{headers[name]}, {value}" if name in headers else value

    def on_headers_complete(self) -> None:
        """Begin the body, or wait for the next head after an informational one."""
        response = self.response
        if response.has_head:
            return
        status = self._parser.get_status_code()
        if status < _FINAL and status != HTTPStatus.SWITCHING_PROTOCOLS:
            response.headers = {}
            return
        response.status, response.has_head = status, True
        is_chunked = response.headers.get("transfer-encoding", "").lower().endswith("chunked")
        has_length = is_chunked or "content-length" in response.headers
        self._ends_with_connection = not has_length and status not in _WITHOUT_BODY
        if response.to_head_request or status == HTTPStatus.SWITCHING_PROTOCOLS:
            response.is_complete = True

    def on_body(self, data: bytes) -> None:
        """Keep a part of the body."""
        self._overhead = 0
        if not self.response.is_complete:
            self.response.chunks.append(data)
            self.response.buffered += len(data)

    def on_message_complete(self) -> None:
        """End the response, unless it was an informational one."""
        response = self.response
        if not response.has_head or response.is_complete:
            return
        response.is_complete = True
        has_two_lengths = "content-length" in response.headers and "transfer-encoding" in response.headers
        response.keeps_alive = self._parser.should_keep_alive() and not has_two_lengths
