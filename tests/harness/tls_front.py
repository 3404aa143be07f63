"""A reverse proxy with TLS in front of the admin listener, as the manual describes it for clients that want https."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import uvicorn
from harness.http_client import plain_http
from harness.waiting import wait_until
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

CERTIFICATE = Path(__file__).parents[1] / "data" / "localhost.pem"
"""A certificate for localhost that it signed itself, good for a hundred years, with its key."""

_HOP_HEADERS = ("host", "connection", "content-length", "transfer-encoding")


@asynccontextmanager
async def a_tls_front(target: str, *, prefix: str = "") -> AsyncIterator[str]:
    """Run such a proxy in front of the URL *target*, with *prefix* before each path. Yield its own URL."""

    async def forward(scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        query = scope["query_string"].decode("latin-1")
        path = prefix + scope["raw_path"].decode("latin-1") + (f"?{query}" if query else "")
        headers = {name: value for name, value in request.headers.items() if name not in _HOP_HEADERS}
        async with plain_http(base_url=target, timeout=30) as client:
            answer = await client.request(request.method, path, headers=headers, content=await request.body())
        kept = {name: value for name, value in answer.headers.items() if name not in _HOP_HEADERS}
        await Response(answer.content, answer.status_code, headers=kept)(scope, receive, send)

    config = uvicorn.Config(
        forward, log_config=None, access_log=False, ws="none", lifespan="off", ssl_certfile=CERTIFICATE
    )
    server = uvicorn.Server(config)
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]  # pytest handles the signals
    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        await wait_until(lambda: server.started)
        try:
            yield f"https://localhost:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await serving
