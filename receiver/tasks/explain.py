"""Tells a task's whole story: what was wanted, what arrived, what was decided and tried, and what comes next."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from urllib.parse import urlsplit

from receiver.domain.clock import Clock
from receiver.domain.errors import MalformedBody, NotFound
from receiver.domain.model import (
    ArchiveState,
    Attempt,
    Delivery,
    DeliveryStatus,
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
from receiver.domain.replays import AuditEntry
from receiver.events.routing import REPLY_PREFIX
from receiver.kling import protocol
from receiver.kling.raw_json import truncate_strings
from receiver.store.interfaces import Catalog, DeliveryView
from receiver.tasks import lifecycle

_MAX_ITEMS = 500
_MAX_SENTENCES = 3
_CALLBACK_URL = "callback_url"

OUTCOME_TEXT: Mapping[PushOutcome, str] = {
    PushOutcome.PENDING: "waits to be confirmed by Kling's API",
    PushOutcome.APPLIED: "changed the task",
    PushOutcome.DUPLICATE: "said what was known already",
    PushOutcome.STALE: "came after something newer",
    PushOutcome.MISMATCH: "speaks of another task, or against what is settled",
    PushOutcome.UNRECOGNIZED: "has a shape or a status never seen before",
    PushOutcome.FORGED: "has a wrong signature, or Kling's API denies it",
}


class ExplainStore(Protocol):
    """What is kept beside the catalog."""

    async def intent(self, task_id: str) -> bytes:
        """Give the body the task was asked for with; empty when it is no longer kept."""
        ...

    async def route_states(self) -> Mapping[str, RouteState]:
        """Give what is remembered about each route."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedPush:
    """A push and what it says; ``reading`` is None where nothing could be read of it, or nothing is kept."""

    push: Push
    report: StatusReport | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryHistory:
    """A delivery and the attempts at it, oldest first."""

    view: DeliveryView
    attempts: Sequence[Attempt]

    @property
    def delivery(self) -> Delivery:
        """The delivery itself."""
        return self.view.delivery


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskExplanation:
    """All that is kept about a task, oldest first. ``outlook`` says what comes next, or what a person is to do."""

    task: Task
    intent: Json | None
    pushes: Sequence[ReceivedPush]
    events: Sequence[Event]
    deliveries: Sequence[DeliveryHistory]
    actions: Sequence[AuditEntry]
    next_step: str


class Explainer:
    """Gathers the stories of tasks."""

    def __init__(self, catalog: Catalog, store: ExplainStore, *, routes: Collection[str], clock: Clock) -> None:
        self._catalog = catalog
        self._store = store
        self._routes = frozenset(routes)
        self._clock = clock

    async def explain(self, ref: str) -> TaskExplanation:
        """Tell the story of the task that goes by *ref*. Raises NotFound."""
        task = await self._catalog.task(ref)
        if task is None:
            raise NotFound(f"No task goes by {ref[:64]!r}.", remedy="Ask by our id, Kling's, or the external one.")
        arrivals = [ReceivedPush(push=push, report=_parse_report(push)) for push in await self._catalog.pushes(task.id)]
        events = list(reversed((await self._catalog.events(task_id=task.id, limit=_MAX_ITEMS)).items))
        views = list(reversed((await self._catalog.deliveries(task_id=task.id, limit=_MAX_ITEMS)).items))
        errands = [
            DeliveryHistory(view=view, attempts=await self._catalog.attempts(view.delivery.id)) for view in views
        ]
        subjects = [task.id, *(view.delivery.id for view in views)]
        actions = list(reversed(await self._catalog.actions(subjects=subjects, limit=_MAX_ITEMS)))
        states = await self._store.route_states()
        return TaskExplanation(
            task=task,
            intent=_redacted_intent(await self._store.intent(task.id)),
            pushes=arrivals,
            events=events,
            deliveries=errands,
            actions=actions,
            next_step=next_step(
                task, arrivals, events, errands, states=states, routes=self._routes, now=self._clock.now()
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
    """Shorten what a task was asked for with; of the client's own callback URL only the origin may be shown."""
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
        return "(a URL that cannot be read)"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}/..."


def next_step(
    task: Task,
    pushes: Sequence[ReceivedPush],
    events: Sequence[Event],
    deliveries: Sequence[DeliveryHistory],
    *,
    states: Mapping[str, RouteState],
    routes: Collection[str],
    now: datetime,
) -> str:
    """Say what comes next for a task, or what a person is to do, in sentences for people."""
    repeated = {errand.delivery.replay_of for errand in deliveries}
    open_errands = [
        errand
        for errand in deliveries
        if errand.delivery.status is not DeliveryStatus.DELIVERED and errand.delivery.id not in repeated
    ]
    open_errands.sort(key=lambda errand: errand.delivery.status is DeliveryStatus.PENDING)
    said = [
        _delivery_step(errand, states.get(errand.delivery.route), routes=routes, now=now) for errand in open_errands
    ]
    sentences = list(dict.fromkeys(said))[:_MAX_SENTENCES]  # what holds a route up, holds up all of it
    if left := sum(sentence not in sentences for sentence in said):
        sentences.append(f"{left} more deliveries are not through: see above.")
    first = _finished_step(task, events, deliveries) if task.state.is_final else _unfinished_step(task, pushes, now=now)
    if task.state.is_final and sentences and not _is_archive_pending(events):
        return " ".join(sentences)
    return " ".join([first, *sentences])


def _is_archive_pending(events: Sequence[Event]) -> bool:
    return any(event.archiving is ArchiveState.PENDING for event in events)


def _finished_step(task: Task, events: Sequence[Event], deliveries: Sequence[DeliveryHistory]) -> str:
    ends = [event for event in events if event.type == f"task.{task.state}"]
    if _is_archive_pending(events):
        return "Its results are being brought home; whoever wants to know is told when the files are here."
    if any(errand.delivery.event_id == end.id for errand in deliveries for end in ends):
        return "Nothing more: it is over, and everybody who wanted to know has been told."
    if not ends:
        return "Nothing more: it is over, and what came of it is no longer kept."
    return (
        "It is over, and no route wanted to know: the decisions above say why. To bring it out all the same: "
        f"kling-receiver replay --event {ends[-1].id} --to-route NAME"
    )


def _unfinished_step(task: Task, pushes: Sequence[ReceivedPush], *, now: datetime) -> str:
    """Say what comes next for a task that Kling has not ended."""
    why, due = _reason_suffix(task.message), _format_time(task.due_at)
    is_doubtful = any(arrival.push.outcome is PushOutcome.PENDING for arrival in pushes)
    match task.state:
        case TaskState.AWAITING if not is_doubtful:
            says = _unused_url_step(task, pushes, now=now)
        case TaskState.QUEUED if task.due_at is None or task.due_at <= now:
            says = f"It waits to be sent{why}, and goes as soon as it is its turn."
        case TaskState.QUEUED:
            says = f"It waits to be sent{why}; at the latest it is looked at again at {due}."
        case TaskState.SUBMITTING:
            says = f"It is being sent to Kling{why}. Without a clear answer it is looked up at {due}."
        case TaskState.REJECTED if task.message.startswith(lifecycle.CANCELLED):
            says = f"Nothing more: it was {task.message.rstrip('.')}. Kling did not make it."
        case TaskState.REJECTED:
            says = f"Nothing more: Kling did not take it{why}. Correct it and submit it again."
        case TaskState.EXPIRED:
            says = f"It was given up{why}. Should Kling's word still come, it counts."
        case _ if is_doubtful:
            says = f"A callback waits to be confirmed: Kling is asked about it at {due}."
        case _ if task.due_at is None:
            says = "Kling is at work on it, and cannot be asked about it: the next word is a callback."
        case _:
            says = f"Kling is at work on it. It tells by a callback, or else is asked at {due}."
    return says


def _unused_url_step(task: Task, pushes: Sequence[ReceivedPush], *, now: datetime) -> str:
    """Say how it stands with a callback URL by which no task of Kling's has become known."""
    if task.token_hash is None:
        return "Its callback URL was revoked: what comes there is refused."
    if task.expires_at is not None and task.expires_at <= now:
        return "Its callback URL has expired unused; make another with: kling-receiver callback-url"
    good = f"It is good until {_format_time(task.expires_at)}."
    if pushes:
        return f"Its URL was called, and nothing that came there told of its task: see above. {good}"
    return f"Nobody has called its URL yet. {good}"


def _delivery_step(
    history: DeliveryHistory, state: RouteState | None, *, routes: Collection[str], now: datetime
) -> str:
    """Say what comes next for a delivery that has not got through."""
    delivery = history.delivery
    route, last = delivery.route, history.attempts[-1] if history.attempts else None
    why = _reason_suffix(last.reason) if last is not None else ""
    if delivery.status is not DeliveryStatus.PENDING:
        says = f"{delivery.status}{why}. When it is mended: kling-receiver deliveries retry {delivery.id}"
    elif route not in routes and not route.startswith(REPLY_PREFIX):
        says = "no such route is in the configuration any more; its events wait until it is put back."
    elif delivery.claim is not None and delivery.due_at > now:
        says = f"it is being tried now, attempt {delivery.attempts + 1}."
    elif state is not None and state.held_by is HeldBy.OPERATOR:
        says = f"held by hand{_reason_suffix(state.held_why)} until: kling-receiver routes release {route}"
    elif state is not None and state.held_by is HeldBy.FAILURES:
        says = (
            f"held since {_format_time(state.held_at)}{_reason_suffix(state.held_why)}; probed once a minute, "
            f"the first success lets all go on. To try all now: kling-receiver routes release {route}"
        )
    elif delivery.due_at <= now:
        says = "it goes out as soon as there is room for it."
    elif last is None:
        says = f"it goes out at {_format_time(delivery.due_at)}."
    else:
        says = f"attempt {last.number} {last.outcome}{why}; the next is at {_format_time(delivery.due_at)}."
    return f"{route}: {says}"


def _reason_suffix(reason: str) -> str:
    return f" ({reason.rstrip('.')})" if reason else ""


def _format_time(at: datetime | None) -> str:
    return "a time not known" if at is None else f"{at:%Y-%m-%d %H:%M:%S} UTC"
