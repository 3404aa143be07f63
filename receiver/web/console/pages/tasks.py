"""The list of tasks, and actions on many of them."""

from collections.abc import Sequence
from urllib.parse import urlencode

import msgspec
from starlette.datastructures import QueryParams
from starlette.responses import Response
from starlette.routing import Route

from receiver.domain.errors import Conflict, ReceiverError
from receiver.domain.listed_state import ListedState
from receiver.domain.model import Task, TaskState
from receiver.domain.quantity_text import counted
from receiver.kling.endpoints import CATALOGUE
from receiver.store.interfaces import TaskSearch
from receiver.web.console.filters import PAGE_SIZE, TaskFilter
from receiver.web.console.gate import Gate, Visit, reason
from receiver.web.console.services import ConsoleServices
from receiver.web.params import read_query
from receiver.web.server.problems import bad_request

PATH = "/console/tasks"
END_EVENTS = ("task.succeed", "task.failed")
RETRYABLE = (TaskState.FAILED, TaskState.REJECTED, TaskState.EXPIRED)

STATE_OPTIONS = (
    ("", "any"),
    ("submitting,submitted,processing", "running"),
    ("failed,rejected,expired", "without a result"),
    *((state.value, state.value) for state in ListedState),
)

_MAX_SELECTED = 500
_ENDPOINTS = sorted(CATALOGUE)
_CLOSE_REASON = "made for tasks that were submitted again"


class Preview(msgspec.Struct, frozen=True, kw_only=True):
    """What an action would do: the tasks that it changes, and those that it cannot change."""

    verb: str
    tasks: Sequence[Task]
    left_out: Sequence[Task]


class TaskPages:
    """Answers ``/console/tasks``."""

    def __init__(self, services: ConsoleServices) -> None:
        self._services = services

    def routes(self, gate: Gate) -> list[Route]:
        """Return the routes of the list and its actions."""
        return [
            gate.page(PATH, self.list),
            gate.action(f"{PATH}/preview", self.preview),
            gate.action(f"{PATH}/act", self.act),
        ]

    async def list(self, visit: Visit) -> Response:
        """Show the tasks that match the filters."""
        given = read_query(visit.request, TaskFilter)
        search = TaskSearch(
            text=given.q.strip(),
            states=given.state,
            endpoint=given.endpoint,
            label=given.label,
            tags=given.tag,
            batch=given.batch,
            since=given.from_,
            until=given.to,
        )
        found = await self._services.console.overview.find_tasks(search, limit=PAGE_SIZE, cursor=given.cursor)
        exact = await self._services.catalog.task(search.text) if search.text and not given.cursor else None
        if exact is not None and any(task.id == exact.id for task in found.items):
            exact = None
        costs = await self._services.console.overview.costs_of([task.id for task in found.items])
        return visit.page(
            "tasks.html",
            title="Tasks",
            found=found,
            exact=exact,
            costs=costs,
            given=visit.request.query_params,
            state_options=STATE_OPTIONS,
            endpoints=_ENDPOINTS,
        )

    async def preview(self, visit: Visit) -> Response:
        """Show what an action would do with the selected tasks. A replay has a page of its own."""
        form = await visit.form()
        tasks = await self._selected(form)
        if form.get("do") == "replay":
            return visit.redirect(await self._replay_link(tasks))
        return visit.page("tasks_preview.html", title="Preview", live=False, preview=_preview(form.get("do"), tasks))

    async def act(self, visit: Visit) -> Response:
        """Cancel or retry the selected tasks."""
        form = await visit.form()
        preview = _preview(form.get("do"), await self._selected(form))
        act = self._cancel if preview.verb == "cancel" else self._retry
        notice = await act(preview.tasks, why=reason(form), actor=visit.visitor.name)
        return visit.redirect(PATH, notice=notice)

    async def _selected(self, form: QueryParams) -> Sequence[Task]:
        ids = list(dict.fromkeys(form.getlist("id")))
        if not ids:
            raise bad_request("No task is selected. Go back and choose some.")
        if len(ids) > _MAX_SELECTED:
            raise bad_request(f"At most {_MAX_SELECTED} tasks can be selected.")
        found = [await self._services.catalog.task(each) for each in ids]
        return [task for task in found if task is not None]

    async def _replay_link(self, tasks: Sequence[Task]) -> str:
        events: list[str] = []
        for task in tasks:
            ends = await self._services.catalog.events(types=END_EVENTS, task_id=task.id, limit=1)
            events += [event.id for event in ends.items]
        if not events:
            raise bad_request("None of the selected tasks has ended, so there is no event to deliver again.")
        return f"/console/replays/new?{urlencode([('event', each) for each in events])}"

    async def _cancel(self, tasks: Sequence[Task], *, why: str, actor: str) -> str:
        """Cancel tasks, newest first, because the oldest are sent next."""
        too_late = 0
        for task in sorted(tasks, key=lambda each: each.id, reverse=True):
            try:
                await self._services.submitter.cancel(task.id, reason=why, actor=actor)
            except Conflict:
                too_late += 1
        done = _count(len(tasks) - too_late)
        return f"{done} cancelled." + (f" {_count(too_late)} already sent to Kling." if too_late else "")

    async def _retry(self, tasks: Sequence[Task], *, why: str, actor: str) -> str:
        refused: list[str] = []
        batches: set[str] = set()
        for task in tasks:
            try:
                new = (await self._services.submitter.retry(task, reason=why, actor=actor)).task
            except ReceiverError as exc:
                refused.append(str(exc))
                continue
            if new.batch is not None and new.batch != task.batch:
                batches.add(new.batch)
        for name in sorted(batches):  # made for these tasks alone; an open batch would never finish
            await self._services.batches.close(name, why=_CLOSE_REASON, actor=actor)
        return " ".join([f"{_count(len(tasks) - len(refused))} submitted again.", *refused[:3]])


def _preview(verb: str | None, tasks: Sequence[Task]) -> Preview:
    if verb not in ("cancel", "retry"):
        raise bad_request("Choose what to do with the tasks: cancel, retry or replay.")
    states = (TaskState.QUEUED,) if verb == "cancel" else RETRYABLE
    return Preview(
        verb=verb,
        tasks=[task for task in tasks if task.state in states],
        left_out=[task for task in tasks if task.state not in states],
    )


def _count(number: int) -> str:
    return counted(number, "task")
