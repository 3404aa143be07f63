"""What must hold at every step. Observed from outside, without the code under test."""

import asyncio
import hashlib
import json
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from chaos.simulated_kling import FINAL, SimulatedTask
from harness.packed import add_unpack
from standardwebhooks import Webhook

from receiver.domain.model import Task

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
CLIENT = "client"
"""The destination of a client's callback URL: gets Kling's bodies, unsigned."""
CONCURRENCY = {"ends": 2, "images": 3}
"""How many deliveries these routes may send at once, as the configurations say."""
UNVERIFIED_ROUTE = "all"
"""The route that accepts unverified events."""

_MAX_VIOLATIONS = 20
_IN_FLIGHT_SECONDS = 60.0
_RANK = {"submitted": 1, "processing": 2, "rejected": 3, "expired": 3, "succeed": 4, "failed": 4}


class Oracle:
    """Records what each side was promised and what Kling did; ``violations`` lists every contradiction."""

    def __init__(self, store: Path, truth: Mapping[str, SimulatedTask]) -> None:
        self.violations: list[str] = []
        self.counts: Counter[str] = Counter()
        self.promised: dict[str, str] = {}
        self.acknowledged_tokens: set[bytes] = set()
        self.signed_ends: dict[bytes, str] = {}  # the end that Kling signed, by the token it was pushed to
        self.held_routes: dict[str, float] = {}  # routes held by the operator, with the time of the answer
        self.retried_deliveries: list[str] = []  # accepted manual retries
        self.replays: list[str] = []
        self.cancelled: list[str] = []
        self._truth = truth
        self._store = store
        self._states: dict[str, str] = {}
        self._in_flight: Counter[str] = Counter()
        self._watched: set[str] = set()
        self._trace = hashlib.sha256()
        self._awaited: tuple[str, asyncio.Event] | None = None

    def wait_for(self, finding: str | None) -> asyncio.Event:
        """Return an event that is set when a violation contains *finding*."""
        found = asyncio.Event()
        if finding is not None:
            self._awaited = finding, found
        return found

    def report(self, what: str) -> None:
        """Record a violation with its time."""
        if len(self.violations) < _MAX_VIOLATIONS:
            self.violations.append(f"{asyncio.get_running_loop().time() / 3600:.3f} h: {what}")
            if self._awaited is not None and self._awaited[0] in what:
                self._awaited[1].set()

    def trace(self, *what: object) -> None:
        """Record an event, so that two runs can be compared."""
        self._trace.update(f"{asyncio.get_running_loop().time():.6f} {what}\n".encode())

    @property
    def digest(self) -> str:
        """Return a digest of everything that was recorded."""
        return self._trace.hexdigest()

    def rows(self, statement: str, *values: object) -> list[Any]:
        """Read committed rows."""
        connection = sqlite3.connect(f"{self._store.absolute().as_uri()}?mode=ro", uri=True)
        try:
            add_unpack(connection)
            return connection.execute(statement, values).fetchall()
        finally:
            connection.close()

    def newest_id(self) -> str:
        """Return the end of the newest id in the store."""
        tables = ("tasks", "pushes", "events", "deliveries")
        found = [self.rows(f"SELECT COALESCE(MAX(id), '') FROM {table}") for table in tables]  # noqa: S608  # constant names
        return max(str(newest)[4:] for [(newest,)] in found)

    # Everything accepted is stored.

    def on_acknowledged(self, token: str, body: bytes, *, forged: bool, signed: bool) -> None:
        """Record that a push was answered 200."""
        token_hash = hashlib.sha256(token.encode()).digest()
        kept = self.rows(
            "SELECT 1 FROM pushes JOIN tasks ON tasks.id = pushes.task_id WHERE tasks.token_hash = ? AND digest = ?",
            token_hash,
            hashlib.sha256(body).digest(),
        )
        if not kept:
            self.report(f"acknowledged and not stored: {body!r}")
        if not forged:
            self.acknowledged_tokens.add(token_hash)
        if signed and (status := json.loads(body)["task_status"]) in FINAL:
            self.signed_ends[token_hash] = status

    def on_accepted(self, name: str, how: str) -> None:
        """Record that a client was promised a task, by our id or (through the gateway) by Kling's."""
        if how != "gateway" and not self.rows("SELECT 1 FROM tasks WHERE id = ?", name):
            self.report(f"accepted and not stored: {how} {name}")
        self.promised[name] = how

    # A task's state never moves back.

    def on_task_stored(self, task: Task) -> None:
        """Check a committed state of a task."""
        before, after = self._states.get(task.id), task.state.value
        self._states[task.id] = after
        if before is not None and _RANK.get(after, 0) < _RANK.get(before, 0):
            self.report(f"{task.id} moves back from {before} to {after}")

    # At most one attempt of a delivery is in flight, and no more of a route than it may have.

    def on_process_end(self) -> None:
        """Forget the attempts in flight: the process was killed."""
        self._in_flight = Counter()

    @contextmanager
    def watch_attempt(self, headers: Mapping[str, str]) -> Iterator[None]:
        """Watch an attempt while it waits for its answer."""
        delivery, in_flight = headers.get("kling-receiver-delivery"), self._in_flight
        if delivery is None:  # not an attempt
            yield
            return
        route = self.check_attempt(delivery)
        if in_flight[delivery]:
            self.report(f"{delivery} is sent twice at once")
        with self.counted(in_flight, delivery, route):
            yield

    @contextmanager
    def counted(self, in_flight: Counter[str], delivery: str, route: str) -> Iterator[None]:
        """Count an attempt while it is in flight, for its delivery and for its route."""
        in_flight.update((delivery, route))
        if in_flight[route] > CONCURRENCY.get(route, in_flight[route]):
            self.report(f"{route} sends {in_flight[route]} deliveries at once")
        try:
            yield
        finally:
            in_flight.subtract((delivery, route))

    def check_attempt(self, delivery: str) -> str:
        """Check the row of a delivery that is sent. Return its route."""
        self._watched.add(delivery)
        rows = self.rows("SELECT status, claim, route FROM deliveries WHERE id = ?", delivery)
        if not rows or rows[0][0] != "pending" or rows[0][1] is None:
            self.report(f"{delivery} is sent with the row {rows}")
        elif self._is_held(rows[0][2]):
            self.report(f"{delivery} is sent by {rows[0][2]}, which the operator holds")
        return rows[0][2] if rows else ""

    def _is_held(self, route: str) -> bool:
        """Return whether an operator held the route so long ago that no earlier attempt can still be in flight."""
        now = asyncio.get_running_loop().time()
        return now - self.held_routes.get(route, now) > _IN_FLIGHT_SECONDS

    # No forbidden address is dialled.

    def on_forbidden_dial(self, address: str) -> None:
        """Report a connection to an address that must be blocked."""
        self.report(f"{address} was dialled")

    # Unverified events stay on routes that accept them.

    def on_webhook(self, destination: str, headers: Mapping[str, str], body: bytes) -> None:
        """Check that a delivered event is true, and confirmed if the route requires it."""
        if headers["kling-receiver-delivery"] not in self._watched:
            self.report(f"an attempt to {destination} is not watched")  # the checks of `watch_attempt` would be blind
        if destination != CLIENT:
            at = datetime.fromtimestamp(int(headers["webhook-timestamp"]), UTC)
            if headers["webhook-signature"] != Webhook(SECRET).sign(headers["webhook-id"], at, body.decode()):
                self.report(f"a signature to {destination} is wrong")
        event = json.loads(body)
        data = event.get("data", {})
        if data.get("status") in FINAL and data.get("verified") == "none" and destination != UNVERIFIED_ROUTE:
            self.report(f"unverified event to {destination}: {body!r}")
        if destination == CLIENT and "kling_receiver" in event:
            return  # the receiver's own end of a task, which Kling did not report; see `_expected_routes`
        said = event if "task_status" in event else data.get("kling", {})
        if said.get("task_status") in FINAL and data.get("verified") != "none":
            self._compare(destination, said, is_blind=data.get("task", {}).get("endpoint", "") is None)

    def _compare(self, destination: str, event: Mapping[str, Any], *, is_blind: bool) -> None:
        """Check an event against Kling's state. A task that cannot be polled may have an empty result."""
        truth = self._truth.get(event.get("task_id", ""))
        if truth is None or truth.state != event["task_status"]:
            self.report(f"untrue event to {destination}: {event}, Kling has {truth}")
            return
        images = event["task_result"]["images"] if truth.state == "succeed" else truth.result
        if images != truth.result and (images or not is_blind):
            self.report(f"a wrong result to {destination}: {event}")
