"""Stands in for a chat service: records each POST in threads of its own, and answers as set."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self


class ChatService:
    """Listens on a free port of this machine. With *hangs* it answers nothing before it is closed."""

    def __init__(self, *, hangs: bool = False) -> None:
        self.status = 200
        self.answer = b'{"ok": true, "result": [], "id": "1"}'
        self.paths: list[str] = []
        self.bodies: list[bytes] = []
        self.gate = threading.Event()
        if not hangs:
            self.gate.set()
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                service.paths.append(self.path)
                service.bodies.append(self.rfile.read(int(self.headers.get("content-length", 0))))
                service.gate.wait(30)
                self.send_response(service.status)
                self.send_header("content-length", str(len(service.answer)))
                self.end_headers()
                self.wfile.write(service.answer)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 -- the library's signature
                """Print nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self.address = f"127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def only_json(self) -> Any:
        """Return the body of the only request."""
        (body,) = self.bodies
        return json.loads(body)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.gate.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
