"""The least a callback can cost here: a handler that reads the body, keeps nothing and answers.

``python -m benchmarks.empty PORT`` serves it by the same uvicorn as the receiver, with the same settings.
"""

import sys

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route


async def callback(request: Request) -> Response:
    """Take a callback and forget it."""
    await request.body()
    return JSONResponse({"ok": True})


app = Starlette(routes=[Route("/callbacks/{token}", callback, methods=["POST"])])


def serve(app: object, port: int) -> None:
    """Serve an app the way the receiver's listener is served."""
    uvicorn.run(
        app,  # type: ignore[arg-type]  # any ASGI app
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


if __name__ == "__main__":
    serve(app, int(sys.argv[1]))
