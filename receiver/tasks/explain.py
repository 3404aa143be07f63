"""Explains a task: its intent, pushes, events, deliveries and attempts, and what happens next."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from urllib.parse import urlsplit

import msgspec

from receiver.domain.audit import AuditEntry
from receiver.domain.clock import Clock
from receiver.domain.errors import MalformedBody, NotFound
from receiver.domain.model import (
    ArchiveState,
    Attempt,
    Delivery,
    DeliveryStatus,
    EndReason,
    Event,
    HeldBy,
    Json,
    Push,
    PushOutcome,
    RouteState,
    Source,
    StatusReport,
    Task,
    TaskState,
)
from receiver.events.replies import REPLY_PREFIX
from receiver.kling import protocol
from receiver.kling.raw_json import truncate_strings
from receiver.store.interfaces import Catalog, DeliveryQueue, DeliveryView, TaskStore

_MAX_ITEMS = 500
_MAX_SENTENCES = 3
_CALLBACK_URL = "callback_url"

OUTCOME_TEXT: Mapping[PushOutcome, str] = {
    PushOutcome.PENDING: "waits for confirmation by Kling's API",
    PushOutcome.APPLIED: "changed the task",
    PushOutcome.DUPLICATE: "reported a known state",
    PushOutcome.STALE: "arrived after a newer state",
    PushOutcome.MISMATCH: "is about another task, or contradicts the final state",
    PushOutcome.UNRECOGNIZED: "has an unknown format or status",
    PushOutcome.FORGED: "has a wrong signature, or Kling's API denies it",
}


class ReceivedPush(msgspec.Struct, frozen=True, kw_only=True):
    """A push and its report, which is None if the body could not be parsed or is no longer kept."""

    push: Push
    report: StatusReport | None


class DeliveryHistory(msgspec.Struct, frozen=True, kw_only=True):
    """A delivery and its attempts, oldest first."""

    view: DeliveryView
    attempts: Sequence[Attempt]

    @property
    def delivery(self) -> Delivery:
        """The delivery itself."""
        return self.view.delivery


class TaskExplanation(msgspec.Struct, frozen=True, kw_only=True):
    """Everything stored about a task, oldest first. ``next_steps`` say what happens next or what to do."""

    task: Task
    intent: Json | None
    pushes: Sequence[ReceivedPush]
    events: Sequence[Event]
    deliveries: Sequence[DeliveryHistory]
    actions: Sequence[AuditEntry]
    next_steps: Sequence[str]

    @property
    def next_step(self) -> str:
        """The next steps as one text."""
        return " ".join(self.next_steps)


class Explainer:
    """Builds the explanation of a task from the store."""

    def __init__(
        self, catalog: Catalog, tasks: TaskStore, queue: DeliveryQueue, *, routes: Collection[str], clock: Clock
    ) -> None:
        self._catalog = catalog
        self._tasks = tasks
        self._queue = queue
        self._routes = frozenset(routes)
        self._clock = clock

    async def explain(self, ref: str) -> TaskExplanation:
        """Explain the task with the id *ref*. Raises NotFound."""
        task = await self._catalog.task(ref)
        if task is None:
            raise NotFound(
                f"There is no task {ref[:64]!r}.", remedy="Use the receiver's id, Kling's id or the external id."
            )
        pushes = [ReceivedPush(push=push, report=_parse_report(push)) for push in await self._catalog.pushes(task.id)]
        events = list(reversed((await self._catalog.events(task_id=task.id, limit=_MAX_ITEMS)).items))
        views = list(reversed((await self._catalog.deliveries(task_id=task.id, limit=_MAX_ITEMS)).items))
        deliveries = [
            DeliveryHistory(view=view, attempts=await self._catalog.attempts(view.delivery.id)) for view in views
        ]
        subjects = [task.id, *(view.delivery.id for view in views)]
        actions = list(reversed(await self._catalog.actions(subjects=subjects, limit=_MAX_ITEMS)))
        states = await self._queue.route_states()
        return TaskExplanation(
            task=task,
            intent=_redacted_intent(await self._tasks.intent(task.id)),
            pushes=pushes,
            events=events,
            deliveries=deliveries,
            actions=actions,
            next_steps=next_steps(
                task, pushes, events, deliveries, states=states, routes=self._routes, now=self._clock.now()
            ),
        )


def _parse_report(push: Push) -> StatusReport | None:
    if push.source is Source.RECEIVER or not push.body:
        return None
    try:
        return protocol.parse_status(push.body)
    except MalformedBody:
        return None


def _redacted_intent(body: bytes) -> Json | None:
    """Return the intent with long strings truncated and the client's callback URL reduced to its origin."""
    if not body:
        return None
    try:
        intent = protocol.parse_object(truncate_strings(body))
    except MalformedBody:
        return None
    options = intent.get("options")
    for place in (intent, options if isinstance(options, dict) else {}):
        if isinstance(url := place.get(_CALLBACK_URL), str):
            place[_CALLBACK_URL] = _origin(url)
    return intent


def _origin(url: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError:
        return "(an invalid URL)"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}/..."


def next_steps(
    task: Task,
    pushes: Sequence[ReceivedPush],
    events: Sequence[Event],
    deliveries: Sequence[DeliveryHistory],
    *,
    states: Mapping[str, RouteState],
    routes: Collection[str],
    now: datetime,
) -> Sequence[str]:
    """Return what happens next for a task, or what the operator can do: one text for each delivery."""
    replayed = {history.delivery.replay_of for history in deliveries}
    unfinished = [
        history
        for history in deliveries
        if history.delivery.status is not DeliveryStatus.DELIVERED and history.delivery.id not in replayed
    ]
    unfinished.sort(key=lambda history: history.delivery.status is DeliveryStatus.PENDING)
    steps = [
        _delivery_step(history, states.get(history.delivery.route), routes=routes, now=now) for history in unfinished
    ]
    sentences = list(dict.fromkeys(steps))[:_MAX_SENTENCES]  # deliveries of one held route share a sentence
    if left := sum(step not in sentences for step in steps):
        sentences.append(f"{left} more deliveries are not delivered: see above.")
    if task.state.is_final:
        first = _finished_step(task, events, deliveries, routes=routes)
    else:
        first = _unfinished_step(task, pushes, now=now)
    if task.state.is_final and sentences and not _is_archive_pending(events):
        return sentences
    return [first, *sentences]


def _is_archive_pending(events: Sequence[Event]) -> bool:
    return any(event.archiving is ArchiveState.PENDING for event in events)


def _finished_step(
    task: Task, events: Sequence[Event], deliveries: Sequence[DeliveryHistory], *, routes: Collection[str]
) -> str:
    ends = [event for event in events if event.type == f"task.{task.state}"]
    if _is_archive_pending(events):
        return "Its results are being archived; its routes receive the event once the files are stored."
    if any(history.delivery.event_id == end.id for history in deliveries for end in ends):
        return "Nothing more to do: the task is finished, and every matching route received its event."
    if not ends:
        return "Nothing more to do: the task is finished, and its events are no longer kept."
    replay = f"kling-receiver replay --event {ends[-1].id} --to-route NAME"
    if not routes:
        return (
            "The task is finished, and the configuration has no routes. To deliver its event, add a [[routes]] table, "
            f"run `kling-receiver config reload`, then: {replay}"
        )
    return (
        "The task is finished, and no route matched its event: the decisions above say why. To deliver it anyway: "
        f"{replay}"
    )


def _unfinished_step(task: Task, pushes: Sequence[ReceivedPush], *, now: datetime) -> str:
    """Return what happens next for a task that Kling has not ended."""
    why, due = _reason_suffix(task.message), _format_time(task.due_at)
    is_unconfirmed = any(received.push.outcome is PushOutcome.PENDING for received in pushes)
    match task.state:
        case TaskState.AWAITING if not is_unconfirmed:
            step = _unused_url_step(task, pushes, now=now)
        case TaskState.QUEUED if task.due_at is None or task.due_at <= now:
            step = f"It is queued{why}, and is submitted as soon as it is its turn."
        case TaskState.QUEUED:
            step = f"It is queued{why}; it is checked again at {due} at the latest."
        case TaskState.SUBMITTING:
            step = f"It is being submitted to Kling{why}. Without a clear answer it is looked up at {due}."
        case TaskState.REJECTED if task.end_reason is EndReason.CANCELLED:
            step = f"Nothing more to do: it was {task.message.rstrip('.')}. Kling did not create it."
        case TaskState.REJECTED:
            step = f"Nothing more to do: Kling refused it{why}. Correct it and submit it again."
        case TaskState.EXPIRED:
            step = f"It was given up{why}. An end that Kling reports later still counts."
        case _ if is_unconfirmed:
            step = f"A callback waits for confirmation: the task is polled at {due}."
        case _ if task.due_at is None:
            step = "Kling is working on it. It cannot be polled, so its next state comes by callback only."
        case _:
            step = f"Kling is working on it. Its next state comes by callback, or by the poll at {due}."
    return step


def _unused_url_step(task: Task, pushes: Sequence[ReceivedPush], *, now: datetime) -> str:
    """Return the status of a callback URL that no push has bound to a task of Kling."""
    if task.token_hash is None:
        return "Its callback URL was revoked: callbacks to it are refused."
    if task.expires_at is not None and task.expires_at <= now:
        return "Its callback URL expired unused. To create another one: kling-receiver callback-url"
    validity = f"It is valid until {_format_time(task.expires_at)}."
    if pushes:
        return f"Its callback URL was called, but no push identified its task: see above. {validity}"
    return f"Its callback URL has not been called yet. {validity}"


def _delivery_step(
    history: DeliveryHistory, state: RouteState | None, *, routes: Collection[str], now: datetime
) -> str:
    """Return what happens next for a delivery that is not delivered."""
    delivery = history.delivery
    route, last = delivery.route, history.attempts[-1] if history.attempts else None
    why = _reason_suffix(last.reason) if last is not None else ""
    if delivery.status is not DeliveryStatus.PENDING:
        step = f"{delivery.status}{why}. Once the cause is fixed: kling-receiver deliveries retry {delivery.id}"
    elif route not in routes and not route.startswith(REPLY_PREFIX):
        step = "the configuration no longer has this route; its events wait until it is added again."
    elif delivery.claim is not None and delivery.due_at > now:
        step = f"attempt {delivery.attempts + 1} is in progress."
    elif state is not None and state.held_by is HeldBy.OPERATOR:
        step = (
            f"held by an operator{_reason_suffix(state.held_why)}. To release it: kling-receiver routes release {route}"
        )
    elif state is not None and state.held_by is HeldBy.FAILURES:
        step = (
            f"held since {_format_time(state.held_at)}{_reason_suffix(state.held_why)}; probed once a minute, "
            f"released by the first success. To deliver all now: kling-receiver routes release {route}"
        )
    elif delivery.due_at <= now:
        step = "it is delivered as soon as a slot is free."
    elif last is None:
        step = f"it is delivered at {_format_time(delivery.due_at)}."
    else:
        step = f"attempt {last.number} {last.outcome}{why}; the next is at {_format_time(delivery.due_at)}."
    return f"{route}: {step}"


def _reason_suffix(reason: str) -> str:
    return f" ({reason.rstrip('.')})" if reason else ""


def _format_time(at: datetime | None) -> str:
    return "an unknown time" if at is None else f"{at:%Y-%m-%d %H:%M:%S} UTC"
