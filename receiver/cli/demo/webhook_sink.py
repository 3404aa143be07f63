"""The demo's webhook destination: a small web server that accepts only signed requests."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from types import TracebackType
from typing import Self

from receiver.domain.clock import Clock
from receiver.domain.model import Json
from receiver.domain.secret import Secret
from receiver.domain.signing import SignatureStatus, verify

HOOK_PATH = "/hooks/kling"
CLIENT_PATH = "/my-own-callback"

_MAX_BODY = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedRequest:
    """A received request, and the status of its signature."""

    path: str
    event_id: str
    signature: SignatureStatus
    content: Json


class WebhookSink:
    """Receives POST requests, verifies each by Standard Webhooks, and reports it to a callback."""

    def __init__(
        self, *, port: int, secret: Secret, clock: Clock, on_request: Callable[[ReceivedRequest], None]
    ) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", port), _handler(secret, clock, on_request))
        self._server.daemon_threads = True
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    @property
    def url(self) -> str:
        """The base URL of the server."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _handler(
    secret: Secret, clock: Clock, on_request: Callable[[ReceivedRequest], None]
) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(min(int(self.headers.get("content-length") or 0), _MAX_BODY))
            headers = {name.lower(): value for name, value in self.headers.items()}
            signature = verify([secret], headers, body, now=clock.now())
            request = ReceivedRequest(
                path=self.path,
                event_id=headers.get("webhook-id", ""),
                signature=signature,
                content=json.loads(body),
            )
            self._answer(200 if signature is SignatureStatus.GOOD else 401)
            on_request(request)

        def _answer(self, status: int) -> None:
            self.send_response(status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Log nothing: the demo prints its own steps."""

    return Handler
