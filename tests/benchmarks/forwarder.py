"""A simple forwarder, as a competent developer writes it in an afternoon: FastAPI, aiosqlite, BackgroundTasks, httpx.

It stores each callback before it answers, forwards it with a signature and records the outcome. It has one client and
one connection for all, as the libraries' manuals advise. It has no retries, no replay and no checks. ``python -m
benchmarks.forwarder PORT SINK_PORT FOLDER``
"""

import base64
import hashlib
import hmac
import json
import sys
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import aiosqlite
import httpx
from benchmarks.empty import serve
from fastapi import BackgroundTasks, FastAPI, Request

KEY = b"a key that both sides know"
SCHEMA = """
CREATE TABLE IF NOT EXISTS events (
    id TEXT PRIMARY KEY, token TEXT NOT NULL, body BLOB NOT NULL, received_at TEXT NOT NULL,
    status TEXT NOT NULL DEFAULT 'pending', attempts INTEGER NOT NULL DEFAULT 0,
    code INTEGER, error TEXT, finished_at TEXT
)
"""


def make_app(sink: int, folder: Path) -> FastAPI:
    """Return the forwarder."""
    app = FastAPI(lifespan=_resources(folder))

    @app.post("/callbacks/{token}")
    async def callback(token: str, request: Request, background: BackgroundTasks) -> dict[str, bool]:
        body = await request.body()
        task = json.loads(body)
        event_id = f"evt_{uuid.uuid4().hex}"
        await app.state.db.execute(
            "INSERT INTO events (id, token, body, received_at) VALUES (?, ?, ?, ?)", (event_id, token, body, _now())
        )
        await app.state.db.commit()
        background.add_task(forward, event_id, {"type": f"task.{task['task_status']}", "data": task})
        return {"ok": True}

    async def forward(event_id: str, event: dict[str, object]) -> None:
        content = json.dumps({"timestamp": _now(), **event}).encode()
        status, code, error = "failed", None, None
        try:
            answer = await app.state.http.post(
                f"http://127.0.0.1:{sink}/hook", content=content, headers=_signed(event_id, content)
            )
            status, code = "delivered" if answer.is_success else "failed", answer.status_code
        except httpx.HTTPError as problem:
            error = str(problem)
        await app.state.db.execute(
            "UPDATE events SET status = ?, attempts = attempts + 1, code = ?, error = ?, finished_at = ? WHERE id = ?",
            (status, code, error, _now(), event_id),
        )
        await app.state.db.commit()

    return app


def _resources(folder: Path) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def opened(app: FastAPI) -> AsyncIterator[None]:
        async with aiosqlite.connect(folder / "forwarder.db") as db, httpx.AsyncClient(timeout=15) as http:
            await db.execute("PRAGMA journal_mode = WAL")
            await db.execute("PRAGMA synchronous = FULL")
            await db.execute(SCHEMA)
            await db.commit()
            app.state.db, app.state.http = db, http
            yield

    return opened


def _signed(event_id: str, content: bytes) -> dict[str, str]:
    at = str(int(datetime.now(UTC).timestamp()))
    digest = hmac.digest(KEY, f"{event_id}.{at}.".encode() + content, hashlib.sha256)
    return {
        "content-type": "application/json",
        "webhook-id": event_id,
        "webhook-timestamp": at,
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }


def _now() -> str:
    return datetime.now(UTC).isoformat()


if __name__ == "__main__":
    serve(make_app(int(sys.argv[2]), Path(sys.argv[3])), int(sys.argv[1]))
