"""What must hold at the end of a run. Read directly from the store's file, without the code that wrote it."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

from chaos.oracle import Oracle
from chaos.simulated_kling import FINAL, SimulatedKling
from chaos.simulation import GIVE_UP_HOURS, ROUTE_EVENTS, Destination

_HOUR = 3_600_000_000
_UNFINISHED = ("queued", "submitting", "submitted", "processing")
_MAX_TASK_HOURS = 40


class Simulation(Protocol):
    """A run that has ended, of one process or of several nodes."""

    jumps: bool
    verify: str
    kling: SimulatedKling

    @property
    def oracle(self) -> Oracle:
        """What was observed."""
        ...

    @property
    def destinations(self) -> Mapping[str, Destination]:
        """The destinations by name."""
        ...


def assert_found(finding: str, runs: Iterable[Sequence[str]]) -> None:
    """Fail unless one of some runs has a violation with the words of *finding*. Later runs are not started."""
    assert any(finding in violation for run in runs for violation in run), f"no violation {finding!r} in any run"


def violations(simulation: Simulation) -> list[str]:
    """Return every violated invariant."""
    return [
        *simulation.oracle.violations,
        *_pushes(simulation),
        *_tasks(simulation),
        *_accepted_tasks(simulation),
        *_final_events(simulation),
        *_batches(simulation),
        *_deliveries(simulation),
        *_attempts(simulation),
        *_operator_actions(simulation),
    ]


class _Task(NamedTuple):
    id: str
    origin: str
    state: str
    kling_id: str | None
    external_id: str | None
    endpoint: str | None


class _Event(NamedTuple):
    id: str
    type: str
    verified: str
    envelope: str
    endpoint: str | None
    reply_to: str | None
    callbacks: str | None
    task_id: str | None
    origin: str | None


class _Delivery(NamedTuple):
    id: str
    route: str
    status: str
    created_at: int
    finished_at: int | None
    attempts: int
    accepted: int
    last: str | None


def _pushes(simulation: Simulation) -> Iterator[str]:
    """Every accepted push has an outcome."""
    for row in simulation.oracle.rows("SELECT id, task_id FROM pushes WHERE outcome = 'pending'"):
        yield f"{row} was accepted and has no outcome"


def _tasks(simulation: Simulation) -> Iterator[str]:
    """Every task has Kling's final state. Each intent created one task there; a rejected intent created none."""
    made = Counter(task.external_id for task in simulation.kling.tasks.values())
    for row in simulation.oracle.rows("SELECT id, origin, state, kling_id, external_task_id, endpoint FROM tasks"):
        task = _Task(*row)
        wanted = {"rejected": {0}, "expired": {0, 1}}.get(task.state, {1})
        if task.origin != "minted" and made[task.external_id] not in wanted:
            yield f"{task} was created {made[task.external_id]} times"
        if task.state in _UNFINISHED:
            yield f"{task} is not finished"
        yield from _compare_with_kling(simulation, task)


def _compare_with_kling(simulation: Simulation, task: _Task) -> Iterator[str]:
    """A task that can be polled has Kling's state."""
    truth = simulation.kling.tasks.get(task.kling_id or "")
    if task.endpoint is None:
        return
    if task.state in FINAL and (truth is None or truth.state != task.state):
        yield f"{task} differs from Kling's state: {truth}"
    ended_at = None if truth is None else truth.ended_at
    had_ended = truth is not None and ended_at is not None and ended_at - truth.created_at < _MAX_TASK_HOURS * 3600
    if task.state == "expired" and had_ended and not simulation.jumps:
        yield f"{task} expired although it had ended: {truth}"


def _accepted_tasks(simulation: Simulation) -> Iterator[str]:
    """Every accepted task is stored. A minted URL whose task reached us has a final state."""
    rows = simulation.oracle.rows("SELECT id, kling_id, state, token_hash FROM tasks")
    kept = {name: (state, token) for task_id, kling_id, state, token in rows for name in (task_id, kling_id)}
    for name, how in simulation.oracle.promised.items():
        state, token = kept.get(name, (None, None))
        if state is None:
            yield f"{how} {name} was accepted and is missing"
        elif how == "minted" and state not in (*FINAL, "expired") and token in simulation.oracle.acknowledged_tokens:
            yield f"{how} {name} is not finished: {state}"  # without a push, the receiver does not know the task


def _final_events(simulation: Simulation) -> Iterator[str]:
    """Each finished task has one final event, with the right state.

    Only a task that cannot be polled may have two: an unverified one, and the signed one that replaces it. An end that
    Kling signed is never lost.
    """
    rows = simulation.oracle.rows("SELECT id, state, endpoint, token_hash FROM tasks")
    ends: dict[str, list[tuple[str, str]]] = {}
    for task_id, type_, verified in simulation.oracle.rows(
        "SELECT task_id, type, verified FROM events WHERE type IN ('task.succeed', 'task.failed') ORDER BY seq"
    ):
        ends.setdefault(task_id, []).append((type_, verified))
    for task_id, state, endpoint, token_hash in rows:
        found = ends.get(task_id, [])
        is_replaced = endpoint is None and [verified for _, verified in found] == ["none", "signature"]
        simulation.oracle.counts["forged ends replaced"] += is_replaced
        if len(found) != (state in FINAL) + is_replaced or (found and found[-1][0] != f"task.{state}"):
            yield f"{task_id} is {state} and has the final events {found}"
        signed = simulation.oracle.signed_ends.get(token_hash)
        if endpoint is None and signed and (f"task.{signed}", "signature") not in found:
            yield f"{task_id} was {signed} by a signed push, which is lost: {found}"


def _batches(simulation: Simulation) -> Iterator[str]:
    """Each complete batch has one event that contains all of its tasks. Other batches have none."""
    reported: dict[str, list[list[str]]] = {}
    for (envelope,) in simulation.oracle.rows(
        "SELECT ENVELOPE(envelope, body) FROM events WHERE type = 'batch.finished'"
    ):
        data = json.loads(envelope)["data"]
        reported.setdefault(data["batch"]["name"], []).append([task["id"] for task in data["tasks"]])
    members: dict[str, list[str]] = {}
    for name, task_id in simulation.oracle.rows("SELECT batch, id FROM tasks WHERE batch IS NOT NULL ORDER BY id"):
        members.setdefault(name, []).append(task_id)
    for name, size in simulation.oracle.rows("SELECT name, size FROM batches"):
        simulation.oracle.counts["batches"] += 1
        wanted = [members[name]] if len(members[name]) == size else []
        if reported.pop(name, []) != wanted:
            yield f"batch {name} of {size} has {len(members[name])} tasks and a wrong event"
    yield from (f"batch {name} has an event and does not exist" for name in reported)


def _deliveries(simulation: Simulation) -> Iterator[str]:
    """Each event has one delivery per matching route, more only by an operator's replay. Each delivery is finished."""
    found: dict[str, Counter[str]] = {}
    rows = simulation.oracle.rows("SELECT event_id, route, status, replay_of FROM deliveries")
    for event_id, route, status, replay_of in rows:
        if replay_of is None:
            found.setdefault(event_id, Counter())[route] += 1
        if status not in ("delivered", "dead"):
            yield f"the delivery of {event_id} to {route} is not finished"
    rows = simulation.oracle.rows(
        "SELECT events.id, events.type, events.verified, ENVELOPE(events.envelope, events.body), tasks.endpoint, "
        "tasks.reply_to, tasks.client_callbacks, tasks.id, tasks.origin "
        "FROM events LEFT JOIN tasks ON tasks.id = events.task_id ORDER BY events.seq"
    )
    ended: set[str | None] = set()
    for row in rows:
        event = _Event(*row)
        wanted = Counter(_expected_routes(simulation, event, json.loads(event.envelope)["data"], ended))
        if found.get(event.id, Counter()) != wanted:
            yield f"{event.id} {event.type} {event.verified} went to {found.get(event.id)}, expected {wanted}"


def _expected_routes(simulation: Simulation, event: _Event, data: Any, ended: set[str | None]) -> Iterator[str]:
    """*ended* are the tasks whose one-shot callers have received the end. It grows in the order of the events."""
    family, _, word = event.type.partition(".")
    word = word if family == "task" else family
    unconfirmed = event.verified == "none" and data.get("source") == "callback"
    doubtful = unconfirmed and (word in FINAL or simulation.verify == "always")
    for route, words in ROUTE_EVENTS.items():
        if "*" not in words and word not in words:
            continue
        if route == "images" and not fnmatchcase(event.endpoint or "", "images/*"):
            continue
        if not doubtful or route == "all":
            yield route
    if not event.reply_to or doubtful:
        return
    if event.callbacks == "all":
        is_sent = data.get("source") in ("callback", "poll")
    else:
        is_end = word in (*FINAL, "expired") or (word == "rejected" and event.origin == "api")
        is_sent = family == "task" and is_end and event.task_id not in ended
        if is_sent:
            ended.add(event.task_id)
            simulation.oracle.counts["one-shot ends"] += 1
    if is_sent:
        yield f"reply:{urlsplit(event.reply_to).netloc}"


def _attempts(simulation: Simulation) -> Iterator[str]:
    """A delivered delivery was accepted at its last attempt only. A dead one was refused or grew too old."""
    rows = simulation.oracle.rows(
        "SELECT deliveries.id, route, status, deliveries.created_at, finished_at, deliveries.attempts, "
        "(SELECT COUNT(*) FROM attempts WHERE delivery_id = deliveries.id AND outcome = 'accepted'), "
        "(SELECT outcome FROM attempts WHERE delivery_id = deliveries.id ORDER BY number DESC LIMIT 1) FROM deliveries"
    )
    for row in rows:
        delivery = _Delivery(*row)
        simulation.oracle.counts[f"deliveries {delivery.status}"] += 1
        is_delivered = delivery.status == "delivered"
        if delivery.accepted != is_delivered or (is_delivered and delivery.last != "accepted"):
            yield f"{delivery} contradicts its attempts"
        name = "client" if delivery.route.startswith("reply:") else delivery.route
        if is_delivered and delivery.id not in simulation.destinations[name].accepted:
            yield f"{delivery} is delivered and was never accepted"
        age = (delivery.finished_at or delivery.created_at) - delivery.created_at
        too_old = age >= GIVE_UP_HOURS.get(delivery.route, 96) * _HOUR
        if delivery.status == "dead" and delivery.last != "refused" and not too_old and not simulation.jumps:
            yield f"{delivery} died after {age / _HOUR:.1f} h"


def _operator_actions(simulation: Simulation) -> Iterator[str]:
    """Every accepted operator action took effect and is in the audit log. A cancelled task was never created."""
    kept = dict(simulation.oracle.rows("SELECT id, state FROM replays"))
    for replay in simulation.oracle.replays:
        if kept.get(replay) != "done":
            yield f"replay {replay} is {kept.get(replay)}"
    deliveries = {delivery_id for (delivery_id,) in simulation.oracle.rows("SELECT id FROM deliveries")}
    for delivery in simulation.oracle.retried_deliveries:
        if delivery not in deliveries:
            yield f"{delivery} was retried and is missing"
    states = dict(simulation.oracle.rows("SELECT id, state FROM tasks"))
    for task_id in simulation.oracle.cancelled:
        if states.get(task_id) != "rejected":
            yield f"{task_id} was cancelled and is {states.get(task_id)}"
    for (route,) in simulation.oracle.rows("SELECT name FROM routes WHERE held_by = 'operator'"):
        yield f"route {route} was released and is held"
    actions = dict(simulation.oracle.rows("SELECT verb, COUNT(*) FROM actions GROUP BY verb"))
    for verb, count in (("task.cancelled", len(set(simulation.oracle.cancelled))), ("replay.started", len(kept))):
        if actions.get(verb, 0) < count:
            yield f"{count} times {verb}, but {actions.get(verb, 0)} in the audit log"
