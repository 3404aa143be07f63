"""The lower bound for a callback: a handler that reads the body, stores nothing and answers.

``python -m benchmarks.empty PORT`` serves it with the same uvicorn settings as the receiver.
"""

import sys

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route


async def callback(request: Request) -> Response:
    """Read a callback and discard it."""
    await request.body()
    return JSONResponse({"ok": True})


app = Starlette(routes=[Route("/callbacks/{token}", callback, methods=["POST"])])


def server(app: object, port: int) -> uvicorn.Server:
    """Return a server for an app, configured like the receiver's listener."""
    return uvicorn.Server(
        uvicorn.Config(
            app,  # type: ignore[arg-type]  # uvicorn accepts any ASGI app
            port=port,
            http="httptools",
            loop="uvloop",
            ws="none",
            access_log=False,
            log_level="critical",
            proxy_headers=False,
            server_header=False,
            backlog=1024,
            timeout_keep_alive=60,
        )
    )


def serve(app: object, port: int) -> None:
    """Serve an app until the process is stopped."""
    server(app, port).run()


if __name__ == "__main__":
    serve(app, int(sys.argv[1]))
