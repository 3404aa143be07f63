"""Tells a task's whole story: what was wanted, what arrived, what was decided and tried, and what comes next."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from urllib.parse import urlsplit

from receiver.domain.clock import Clock
from receiver.domain.errors import NotFound, Unreadable
from receiver.domain.model import (
    Archiving,
    Attempt,
    Delivery,
    DeliveryStatus,
    Event,
    HeldBy,
    Json,
    Push,
    PushOutcome,
    Reading,
    RouteState,
    Source,
    Task,
    TaskState,
)
from receiver.domain.replays import Action
from receiver.events.routing import REPLY
from receiver.kling import protocol
from receiver.kling.shortened import shortened
from receiver.store.interfaces import Catalog, DeliveryView
from receiver.tasks import lifecycle

_MOST = 500
_MOST_SENTENCES = 3
_CALLBACK_URL = "callback_url"

MEANINGS: Mapping[PushOutcome, str] = {
    PushOutcome.PENDING: "waits to be confirmed by Kling's API",
    PushOutcome.SETTLED: "changed the task",
    PushOutcome.DUPLICATE: "said what was known already",
    PushOutcome.STALE: "came after something newer",
    PushOutcome.MISMATCH: "speaks of another task, or against what is settled",
    PushOutcome.UNREADABLE: "has a shape or a status never seen before",
    PushOutcome.FORGED: "has a wrong signature, or Kling's API denies it",
}


class Memory(Protocol):
    """What is kept beside the catalog."""

    async def intent(self, task_id: str) -> bytes:
        """Give the body the task was asked for with; empty when it is no longer kept."""
        ...

    async def route_states(self) -> Mapping[str, RouteState]:
        """Give what is remembered about each route."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """A push and what it says; ``reading`` is None where nothing could be read of it, or nothing is kept."""

    push: Push
    reading: Reading | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Errand:
    """A delivery and the attempts at it, oldest first."""

    view: DeliveryView
    attempts: Sequence[Attempt]

    @property
    def delivery(self) -> Delivery:
        """The delivery itself."""
        return self.view.delivery


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """All that is kept about a task, oldest first. ``outlook`` says what comes next, or what a person is to do."""

    task: Task
    intent: Json | None
    arrivals: Sequence[Arrival]
    events: Sequence[Event]
    errands: Sequence[Errand]
    actions: Sequence[Action]
    outlook: str


class Explainer:
    """Gathers the stories of tasks."""

    def __init__(self, catalog: Catalog, memory: Memory, *, routes: Collection[str], clock: Clock) -> None:
        self._catalog = catalog
        self._memory = memory
        self._routes = frozenset(routes)
        self._clock = clock

    async def explain(self, ref: str) -> Story:
        """Tell the story of the task that goes by *ref*. Raises NotFound."""
        task = await self._catalog.task(ref)
        if task is None:
            raise NotFound(f"No task goes by {ref[:64]!r}.", remedy="Ask by our id, Kling's, or the external one.")
        arrivals = [Arrival(push=push, reading=_read(push)) for push in await self._catalog.pushes(task.id)]
        events = list(reversed((await self._catalog.events(task_id=task.id, limit=_MOST)).items))
        views = list(reversed((await self._catalog.deliveries(task_id=task.id, limit=_MOST)).items))
        errands = [Errand(view=view, attempts=await self._catalog.attempts(view.delivery.id)) for view in views]
        subjects = [task.id, *(view.delivery.id for view in views)]
        actions = list(reversed(await self._catalog.actions(subjects=subjects, limit=_MOST)))
        states = await self._memory.route_states()
        return Story(
            task=task,
            intent=_intent(await self._memory.intent(task.id)),
            arrivals=arrivals,
            events=events,
            errands=errands,
            actions=actions,
            outlook=outlook(task, arrivals, events, errands, states=states, routes=self._routes, now=self._clock.now()),
        )


def _read(push: Push) -> Reading | None:
    if push.source is Source.RECEIVER or not push.body:
        return None
    try:
        return protocol.read(push.body)
    except Unreadable:
        return None


def _intent(body: bytes) -> Json | None:
    """Shorten what a task was asked for with; of the client's own callback URL only the origin may be shown."""
    if not body:
        return None
    try:
        intent = protocol.parse_object(shortened(body))
    except Unreadable:
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


def outlook(
    task: Task,
    arrivals: Sequence[Arrival],
    events: Sequence[Event],
    errands: Sequence[Errand],
    *,
    states: Mapping[str, RouteState],
    routes: Collection[str],
    now: datetime,
) -> str:
    """Say what comes next for a task, or what a person is to do, in sentences for people."""
    repeated = {errand.delivery.replay_of for errand in errands}
    open_errands = [
        errand
        for errand in errands
        if errand.delivery.status is not DeliveryStatus.DELIVERED and errand.delivery.id not in repeated
    ]
    open_errands.sort(key=lambda errand: errand.delivery.status is DeliveryStatus.PENDING)
    said = [_about_errand(errand, states.get(errand.delivery.route), routes=routes, now=now) for errand in open_errands]
    sentences = list(dict.fromkeys(said))[:_MOST_SENTENCES]  # what holds a route up, holds up all of it
    if left := sum(sentence not in sentences for sentence in said):
        sentences.append(f"{left} more deliveries are not through: see above.")
    first = _about_end(task, events, errands) if task.state.is_final else _about_way(task, arrivals, now=now)
    if task.state.is_final and sentences and not _is_awaited(events):
        return " ".join(sentences)
    return " ".join([first, *sentences])


def _is_awaited(events: Sequence[Event]) -> bool:
    return any(event.archiving is Archiving.AWAITED for event in events)


def _about_end(task: Task, events: Sequence[Event], errands: Sequence[Errand]) -> str:
    ends = [event for event in events if event.type == f"task.{task.state}"]
    if _is_awaited(events):
        return "Its results are being brought home; whoever wants to know is told when the files are here."
    if any(errand.delivery.event_id == end.id for errand in errands for end in ends):
        return "Nothing more: it is over, and everybody who wanted to know has been told."
    if not ends:
        return "Nothing more: it is over, and what came of it is no longer kept."
    return (
        "It is over, and no route wanted to know: the decisions above say why. To bring it out all the same: "
        f"kling-receiver replay --event {ends[-1].id} --to-route NAME"
    )


def _about_way(task: Task, arrivals: Sequence[Arrival], *, now: datetime) -> str:
    """Say what comes next for a task that Kling has not ended."""
    why, due = _because(task.message), _moment(task.due_at)
    is_doubtful = any(arrival.push.outcome is PushOutcome.PENDING for arrival in arrivals)
    match task.state:
        case TaskState.AWAITING if not is_doubtful:
            says = _about_unused(task, arrivals, now=now)
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


def _about_unused(task: Task, arrivals: Sequence[Arrival], *, now: datetime) -> str:
    """Say how it stands with a callback URL by which no task of Kling's has become known."""
    if task.token_hash is None:
        return "Its callback URL was revoked: what comes there is refused."
    if task.expires_at is not None and task.expires_at <= now:
        return "Its callback URL has expired unused; make another with: kling-receiver callback-url"
    good = f"It is good until {_moment(task.expires_at)}."
    if arrivals:
        return f"Its URL was called, and nothing that came there told of its task: see above. {good}"
    return f"Nobody has called its URL yet. {good}"


def _about_errand(errand: Errand, state: RouteState | None, *, routes: Collection[str], now: datetime) -> str:
    """Say what comes next for a delivery that has not got through."""
    delivery = errand.delivery
    route, last = delivery.route, errand.attempts[-1] if errand.attempts else None
    why = _because(last.reason) if last is not None else ""
    if delivery.status is not DeliveryStatus.PENDING:
        says = f"{delivery.status}{why}. When it is mended: kling-receiver deliveries retry {delivery.id}"
    elif route not in routes and not route.startswith(REPLY):
        says = "no such route is in the configuration any more; its events wait until it is put back."
    elif delivery.claim is not None and delivery.due_at > now:
        says = f"it is being tried now, attempt {delivery.attempts + 1}."
    elif state is not None and state.held_by is HeldBy.OPERATOR:
        says = f"held by hand{_because(state.held_why)} until: kling-receiver routes release {route}"
    elif state is not None and state.held_by is HeldBy.FAILURES:
        says = (
            f"held since {_moment(state.held_at)}{_because(state.held_why)}; it is tried once a minute, and the first "
            f"success lets all go on. To try all now: kling-receiver routes release {route}"
        )
    elif delivery.due_at <= now:
        says = "it goes out as soon as there is room for it."
    elif last is None:
        says = f"it goes out at {_moment(delivery.due_at)}."
    else:
        says = f"attempt {last.number} {last.outcome}{why}; the next is at {_moment(delivery.due_at)}."
    return f"{route}: {says}"


def _because(reason: str) -> str:
    return f" ({reason.rstrip('.')})" if reason else ""


def _moment(at: datetime | None) -> str:
    return "a time not known" if at is None else f"{at:%Y-%m-%d %H:%M:%S} UTC"
