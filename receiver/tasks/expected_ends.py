"""Knows how long past tasks took, and so when each task should be polled. In memory; the store keeps a copy.

While callbacks arrive, polls are sparse. A task is polled by a plan if no callback will report its end: there is no
public URL, its callback URL was revoked, or callbacks are missing.
"""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta

from receiver.domain.bounded_dict import BoundedDict
from receiver.domain.errors import MalformedBody
from receiver.domain.model import Json, Task
from receiver.kling import endpoints, protocol
from receiver.kling.durations import duration_kind, typical_duration
from receiver.settings import PollSettings, Settings
from receiver.tasks.poll_plan import PollPlan, PollPolicy, plan_polls, poll_policy
from receiver.tasks.poll_schedule import running_since

MAX_SAMPLES = 50
"""The most durations that are kept of a kind, the newest."""

MAX_KINDS = 500
_MAX_TASKS = 10_000
_UNSEEN_SHARE = 0.6  # of the time until an end was seen: it is assumed to be later than that
_SECOND = timedelta(seconds=1)


class ExpectedEnds:
    """The durations of past tasks by kind, and the kinds of running tasks.

    ``callbacks_missing`` says that callbacks were expected and stopped arriving.
    """

    def __init__(self, settings: PollSettings, *, has_callbacks: bool) -> None:
        self._settings = settings
        self._has_callbacks = has_callbacks
        self.callbacks_missing = False
        self._kinds: BoundedDict[str, str] = BoundedDict(_MAX_TASKS)
        self._durations: BoundedDict[str, deque[float]] = BoundedDict(MAX_KINDS)
        self._policies: dict[str, PollPolicy] = {}
        self._sparse = poll_policy(settings)
        self._changed: set[str] = set()

    def apply(self, settings: Settings) -> None:
        """Plan later polls by *settings*."""
        self._settings, self._sparse = settings.poll, poll_policy(settings.poll)
        self._policies.clear()

    def restore(self, durations: Mapping[str, Iterable[float]]) -> None:
        """Restore the durations that an earlier process stored."""
        for kind, samples in durations.items():
            self._durations[kind] = deque(samples, MAX_SAMPLES)

    def take_changed(self) -> Mapping[str, Sequence[float]]:
        """Return the durations of the kinds that changed since the last call."""
        changed, self._changed = self._changed, set()
        return {kind: list(self._durations[kind]) for kind in changed if kind in self._durations}

    def mark_changed(self, kinds: Iterable[str]) -> None:
        """Mark kinds as changed again, because they could not be stored."""
        self._changed.update(kinds)

    def remember_kind(self, task_id: str, intent: bytes) -> None:
        """Remember the kind of a task by the body of its submit, which may be missing."""
        try:
            body = protocol.parse_object(intent)
        except MalformedBody:
            body = {}
        self.remember_body(task_id, body)

    def remember_body(self, task_id: str, body: Json) -> None:
        """Remember the kind of a task by the parsed body of its submit."""
        self._kinds[task_id] = duration_kind(body)

    def knows_kind(self, task_id: str) -> bool:
        """Return whether the kind of a task is known."""
        return task_id in self._kinds

    def policy(self, task: Task) -> PollPolicy:
        """Return how to poll a task now."""
        if self._has_callbacks and not self.callbacks_missing and task.token_hash is not None:
            return self._sparse
        kind = self._known_kind(task)
        policy = self._policies.get(kind)
        if policy is None:
            policy = self._policies[kind] = self._planned(kind)
            if len(self._policies) > MAX_KINDS:
                self._policies.clear()
        return policy

    def record_end(self, task: Task, *, ended_at: float | None, seen_at: datetime) -> None:
        """Record a success. *ended_at* is when Kling ended it, in seconds since the epoch, if Kling says so."""
        started_at = running_since(task)
        seen = (seen_at - started_at) / _SECOND
        seconds = seen if ended_at is None else ended_at - started_at.timestamp()
        self._record(task, seconds if 0 < seconds <= seen else seen)

    def record_polled_end(self, task: Task, *, ended_at: float | None, seen_at: datetime) -> bool:
        """Record a success that a poll has seen; *task* is as before that poll.

        If Kling does not say when it ended, that was since the poll before. Return whether this is the first
        end of its kind and tasks are polled by plans: better ones can be made for those that run.
        """
        is_new = self._kind(task) not in self._durations
        started_at = running_since(task)
        is_known = ended_at is not None and ended_at > started_at.timestamp()
        if is_known or task.polling.push_at is not None:  # a push caused the poll
            self.record_end(task, ended_at=ended_at, seen_at=seen_at)
        else:
            seen = (seen_at - started_at) / _SECOND
            unseen = ((task.polling.at or started_at) - started_at) / _SECOND
            self._record(task, (seen + max(unseen, seen * _UNSEEN_SHARE)) / 2)
        return is_new and self.policy(task).plan is not None

    def _record(self, task: Task, seconds: float) -> None:
        if seconds > 0 and task.endpoint:
            for kind in {self._kind(task), task.endpoint}:
                self._add(kind, seconds)

    def _add(self, kind: str, seconds: float) -> None:
        samples = self._durations.pop(kind, None) or deque(maxlen=MAX_SAMPLES)
        samples.append(round(seconds, 3))
        self._durations[kind] = samples  # now the newest, so it is forgotten last
        self._policies.clear()
        self._changed.add(kind)

    def _kind(self, task: Task) -> str:
        return f"{task.endpoint or ''} {self._kinds.get(task.id, '')}".strip()

    def _known_kind(self, task: Task) -> str:
        """Return the kind of a task if past tasks of it are known, else its endpoint."""
        kind = self._kind(task)
        return kind if kind in self._durations else task.endpoint or ""

    def _planned(self, kind: str) -> PollPolicy:
        samples = self._durations.get(kind, ())
        return poll_policy(self._settings, _plan(kind, samples), is_guess=not samples)


def _plan(kind: str, samples: Sequence[float]) -> PollPlan:
    guess = typical_duration(endpoints.resolve(kind.partition(" ")[0]))
    return plan_polls(samples, guess=guess / _SECOND)
