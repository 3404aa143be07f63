"""A bare proxy: it passes a create on with the receiver's own HTTP client, stores nothing and returns the answer.

``python -m benchmarks.proxy PORT KLING_PORT`` serves it with the same uvicorn settings as the receiver.
"""

import sys
from datetime import timedelta

from benchmarks.empty import serve
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from receiver.net.http_client import HttpClient

_TIMEOUT = timedelta(seconds=30)


def make_app(kling: int) -> Starlette:
    """Return the proxy."""
    client = HttpClient(user_agent="proxy")

    async def forward(request: Request) -> Response:
        answer = await client.request(
            "POST",
            f"http://127.0.0.1:{kling}{request.url.path}",
            headers={"content-type": "application/json"},
            content=await request.body(),
            time_limit=_TIMEOUT,
            max_body=1 << 20,
            reuse=False,  # as the receiver does: a create must not be sent twice
        )
        return Response(answer.body, answer.status, media_type="application/json")

    return Starlette(routes=[Route("/v1/{path:path}", forward, methods=["POST"])])


if __name__ == "__main__":
    serve(make_app(int(sys.argv[2])), int(sys.argv[1]))
