"""The least that keeps the receiver's promise for a callback: look up the token, store, commit, log, answer.

It is an ASGI app on the same uvicorn. A thread writes the callbacks that arrived together in one transaction: the
push, the task's new state, the event and its pending delivery. A push that moves no state gives no event. Each is
answered after the commit, which is synced to the disk. It has no limits, no signatures, no verification and no
deliveries. ``python -m benchmarks.floor PORT FOLDER``
"""

import asyncio
import hashlib
import json
import queue
import secrets
import sqlite3
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.empty import serve

SCHEMA = """
CREATE TABLE IF NOT EXISTS tasks (
    id TEXT PRIMARY KEY, token_hash BLOB NOT NULL UNIQUE, state TEXT NOT NULL, updated_at INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS pushes (
    id TEXT PRIMARY KEY, task_id TEXT NOT NULL, received_at INTEGER NOT NULL, body BLOB NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS events (
    id TEXT PRIMARY KEY, task_id TEXT NOT NULL, push_id TEXT NOT NULL, type TEXT NOT NULL, created_at INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS deliveries (
    id TEXT PRIMARY KEY, event_id TEXT NOT NULL, route TEXT NOT NULL, status TEXT NOT NULL, due_at INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS due_deliveries ON deliveries (route, due_at) WHERE status = 'pending';
"""
_CREATED = "created"
_ORDER = {_CREATED: 0, "submitted": 1, "processing": 2, "succeed": 3, "failed": 3}
_ANSWER = b'{"ok":true}'
_HEADERS = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(_ANSWER))]
_FIND = "SELECT id, state FROM tasks WHERE token_hash = ?"


class _Callback(NamedTuple):
    token_hash: bytes
    body: bytes
    status: str
    received_at: int
    stored: asyncio.Future[str | None]


class Writer(threading.Thread):
    """Stores callbacks in groups: all that arrived while the last group was committed."""

    def __init__(self, folder: Path, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(daemon=True)
        self._folder = folder
        self._loop = loop
        self._waiting: queue.SimpleQueue[_Callback] = queue.SimpleQueue()

    def store(self, token: str, body: bytes) -> asyncio.Future[str | None]:
        """Return a future of the task's id, None for an unknown token; it is done after the commit."""
        stored: asyncio.Future[str | None] = self._loop.create_future()
        status = json.loads(body)["task_status"]
        self._waiting.put(_Callback(_hash(token), body, status, time.time_ns() // 1000, stored))
        return stored

    def run(self) -> None:
        """Commit one group after the other."""
        connection = connect(self._folder)
        while True:
            group = [self._waiting.get()]
            while not self._waiting.empty():
                group.append(self._waiting.get())
            self._loop.call_soon_threadsafe(_answer, group, _commit(connection, group))


def connect(folder: Path) -> sqlite3.Connection:
    """Open the store, with the receiver's settings for durability."""
    connection = sqlite3.connect(folder / "floor.db", isolation_level=None, timeout=30)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.executescript(SCHEMA)
    return connection


def create_callback_urls(folder: Path, count: int) -> list[str]:
    """Store this many tasks. Return the paths of their callback URLs."""
    tokens = [secrets.token_urlsafe(32) for _ in range(count)]
    connection = connect(folder)
    connection.execute("BEGIN IMMEDIATE")
    rows = [(_new_id("tsk"), _hash(token), _CREATED, 0) for token in tokens]
    connection.executemany("INSERT INTO tasks VALUES (?, ?, ?, ?)", rows)
    connection.execute("COMMIT")
    connection.close()
    return [f"/callbacks/{token}" for token in tokens]


def _commit(connection: sqlite3.Connection, group: Sequence[_Callback]) -> list[str | None]:
    connection.execute("BEGIN IMMEDIATE")
    task_ids: list[str | None] = []
    states: dict[str, str] = {}
    pushes, tasks, events, deliveries = [], [], [], []
    for callback in group:
        row = connection.execute(_FIND, (callback.token_hash,)).fetchone()
        task_ids.append(None if row is None else row[0])
        if row is None:
            continue
        (task_id, stored), at, status = row, callback.received_at, callback.status
        push_id, event_id = _new_id("psh"), _new_id("evt")
        pushes.append((push_id, task_id, at, callback.body))
        if _ORDER[status] <= _ORDER[states.get(task_id, stored)]:
            continue
        states[task_id] = status
        tasks.append((status, at, task_id))
        events.append((event_id, task_id, push_id, f"task.{status}", at))
        deliveries.append((_new_id("dlv"), event_id, "hook", "pending", at))
    connection.executemany("INSERT INTO pushes VALUES (?, ?, ?, ?)", pushes)
    connection.executemany("UPDATE tasks SET state = ?, updated_at = ? WHERE id = ?", tasks)
    connection.executemany("INSERT INTO events VALUES (?, ?, ?, ?, ?)", events)
    connection.executemany("INSERT INTO deliveries VALUES (?, ?, ?, ?, ?)", deliveries)
    connection.execute("COMMIT")
    return task_ids


def _answer(group: Sequence[_Callback], task_ids: Sequence[str | None]) -> None:
    """Write a log line for each callback, all at once, and let them be answered."""
    at = time.time_ns()
    sys.stdout.write("".join(f'{{"event":"callback.accepted","task":"{each}","at":{at}}}\n' for each in task_ids))
    sys.stdout.flush()
    for callback, task_id in zip(group, task_ids, strict=True):
        if not callback.stored.done():
            callback.stored.set_result(task_id)


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _new_id(prefix: str) -> str:
    return f"{prefix}_{time.time_ns():016x}{secrets.token_hex(5)}"


def make_app(folder: Path) -> Callable[..., Awaitable[None]]:
    """Return the ASGI app."""
    writer: list[Writer] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            return
        if not writer:
            writer.append(Writer(folder, asyncio.get_running_loop()))
            writer[0].start()
        token = scope["path"].removeprefix("/callbacks/")
        task_id = await writer[0].store(token, await _read_body(receive))
        await send({"type": "http.response.start", "status": 404 if task_id is None else 200, "headers": _HEADERS})
        await send({"type": "http.response.body", "body": _ANSWER})

    return app


async def _read_body(receive: Any) -> bytes:
    chunks = []
    while True:
        message = await receive()
        chunks.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(chunks)


if __name__ == "__main__":
    connect(Path(sys.argv[2])).close()
    serve(make_app(Path(sys.argv[2])), int(sys.argv[1]))
