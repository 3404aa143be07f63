"""Knows how long past tasks took, and so when each task should be polled. In memory; the store keeps a copy.

While callbacks arrive, polls are sparse. A task is polled by a plan if no callback will report its end: there is no
public URL, its callback URL was revoked, or callbacks are missing.
"""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from heapq import nlargest

from receiver.domain.bounded_dict import BoundedDict
from receiver.domain.errors import MalformedBody
from receiver.domain.model import Json, Task
from receiver.kling import endpoints, protocol
from receiver.kling.durations import duration_kind, typical_duration
from receiver.settings import PollSettings, Settings
from receiver.tasks.duration_estimate import FEW_DURATIONS, Knowledge, estimate_duration
from receiver.tasks.poll_optimizer import PollPolicy, plan_polls, poll_policy
from receiver.tasks.poll_schedule import next_planned_poll, running_since

MAX_SAMPLES = 50
"""The most durations that are kept of a kind, the newest."""

MAX_KINDS = 500
_MAX_TASKS = 10_000
_MAX_FOLLOWED = 200  # tasks of a kind
_MAX_RUNNING = 20  # ages; shorter ones tell little
_REPLAN_EVERY = 5  # ends, once many are known
_UNSEEN_SHARE = 0.6  # of the time until an end was seen: it is assumed to be later than that
_LEAST_POSTPONEMENT = timedelta(seconds=0.5)
_SECOND = timedelta(seconds=1)


class ExpectedEnds:
    """The durations of past tasks by kind, and the kinds of running tasks.

    While few tasks of a kind have ended, those that run are followed: each poll of one tells when the others may end.
    ``callbacks_missing`` says that callbacks were expected and stopped arriving.
    """

    def __init__(self, settings: PollSettings, *, has_callbacks: bool) -> None:
        self._settings = settings
        self._has_callbacks = has_callbacks
        self.callbacks_missing = False
        self._kinds: BoundedDict[str, str] = BoundedDict(_MAX_TASKS)
        self._durations: BoundedDict[str, deque[float]] = BoundedDict(MAX_KINDS)
        self._followed: BoundedDict[str, dict[str, float]] = BoundedDict(MAX_KINDS)  # ages at the last polls
        self._ended: BoundedDict[str, int] = BoundedDict(MAX_KINDS)
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
        self._kinds[task_id] = duration_kind(body)

    def remember_body(self, task: Task, body: Json) -> None:
        """Remember the kind of a task by the parsed body of its submit, and follow it."""
        self._kinds[task.id] = duration_kind(body)
        self._follow(task, age=0.0)

    def knows_kind(self, task_id: str) -> bool:
        """Return whether the kind of a task is known."""
        return task_id in self._kinds

    def policy(self, task: Task) -> PollPolicy:
        """Return how to poll a task now."""
        if self._expects_callback(task):
            return self._sparse
        kind = self._kind(task)
        policy = self._policies.get(kind)
        if policy is None:
            policy = self._policies[kind] = self._planned(kind, task.endpoint or "")
            if len(self._policies) > MAX_KINDS:
                self._policies.clear()
        return policy

    def postponed_until(self, task: Task, *, now: datetime) -> datetime | None:
        """Return a better time for a poll that is due, or None.

        Polls of other tasks of the kind may have shown since it was planned that the task cannot end yet.
        """
        if not task.polling.count or task.id not in self._followed.get(self._kind(task), ()):
            return None
        planned_at = next_planned_poll(task, self.policy(task), now=now)
        return None if planned_at is None or planned_at - now < _LEAST_POSTPONEMENT else planned_at

    def running_like(self, task: Task) -> Sequence[str]:
        """Return the ids of running tasks whose polls can be planned better, now that this one of their kind ended."""
        return () if self._expects_callback(task) else list(self._followed.get(self._kind(task), ()))

    def record_running(self, task: Task, *, now: datetime) -> None:
        """Record that a poll found a task running."""
        self._follow(task, age=(now - running_since(task)) / _SECOND)

    def forget_running(self, task: Task) -> None:
        """Stop following a task that has ended."""
        self._followed.get(self._kind(task), {}).pop(task.id, None)

    def record_end(self, task: Task, *, ended_at: float | None, seen_at: datetime) -> None:
        """Record a success. *ended_at* is when Kling ended it, in seconds since the epoch, if Kling says so."""
        started_at = running_since(task)
        seen = (seen_at - started_at) / _SECOND
        seconds = seen if ended_at is None else ended_at - started_at.timestamp()
        self._record(task, seconds if 0 < seconds <= seen else seen)

    def record_polled_end(self, task: Task, *, ended_at: float | None, seen_at: datetime) -> None:
        """Record a success that a poll has seen; *task* is as before that poll.

        If Kling does not say when it ended, that was since the poll before.
        """
        started_at = running_since(task)
        is_known = ended_at is not None and ended_at > started_at.timestamp()
        if is_known or task.polling.push_at is not None:  # a push caused the poll
            self.record_end(task, ended_at=ended_at, seen_at=seen_at)
            return
        seen = (seen_at - started_at) / _SECOND
        unseen = ((task.polling.at or started_at) - started_at) / _SECOND
        self._record(task, (seen + max(unseen, seen * _UNSEEN_SHARE)) / 2)

    def _record(self, task: Task, seconds: float) -> None:
        if seconds > 0 and task.endpoint:
            for kind in {self._kind(task), task.endpoint}:
                self._add(kind, seconds)

    def _add(self, kind: str, seconds: float) -> None:
        samples = self._durations.pop(kind, None) or deque(maxlen=MAX_SAMPLES)
        samples.append(round(seconds, 3))
        self._durations[kind] = samples  # now the newest, so it is forgotten last
        self._ended[kind] = ended = self._ended.get(kind, 0) + 1
        if len(samples) <= 2 * FEW_DURATIONS or ended % _REPLAN_EVERY == 0:
            self._policies.pop(kind, None)
        if len(samples) == FEW_DURATIONS:
            self._followed.pop(kind, None)
        self._changed.add(kind)

    def _follow(self, task: Task, *, age: float) -> None:
        kind = self._kind(task)
        if len(self._durations.get(kind, ())) >= FEW_DURATIONS:
            return
        followed = self._followed.setdefault(kind, {})
        if task.id in followed or len(followed) < _MAX_FOLLOWED:
            followed[task.id] = age
            self._policies.pop(kind, None)

    def _expects_callback(self, task: Task) -> bool:
        return self._has_callbacks and not self.callbacks_missing and task.token_hash is not None

    def _kind(self, task: Task) -> str:
        return f"{task.endpoint or ''} {self._kinds.get(task.id, '')}".strip()

    def _planned(self, kind: str, endpoint: str) -> PollPolicy:
        durations, siblings = self._durations.get(kind, ()), self._durations.get(endpoint, ())
        known = Knowledge(
            guess=typical_duration(endpoints.resolve(endpoint)) / _SECOND,
            durations=list(durations),
            siblings=list(siblings) if kind != endpoint else (),
            running=nlargest(_MAX_RUNNING, (age for age in self._followed.get(kind, {}).values() if age)),
        )
        plan = plan_polls(estimate_duration(known), known=len(durations))
        return poll_policy(self._settings, plan, is_guess=not durations and not siblings)
