"""One task: its story, what happens next, and what an operator may do."""

import json
import shlex

from starlette.responses import Response
from starlette.routing import Route

from receiver.domain.errors import NotFound
from receiver.domain.model import Event, Json, Task, TaskState
from receiver.store.interfaces import DeliveryView
from receiver.tasks.explain import TaskExplanation
from receiver.web.console import charts
from receiver.web.console.filters import TaskPageFilter
from receiver.web.console.gate import Gate, Visit, reason
from receiver.web.console.pages.tasks import END_EVENTS, PATH, RETRYABLE
from receiver.web.console.services import ConsoleServices
from receiver.web.console.shown_results import results_of_event
from receiver.web.console.waterfall import Bar, Story, tell_story
from receiver.web.params import read_query
from receiver.web.resources.explain import id_hint


class TaskPage:
    """Answers ``/console/tasks/{ref}``."""

    def __init__(self, services: ConsoleServices) -> None:
        self._services = services

    def routes(self, gate: Gate) -> list[Route]:
        """Return the routes of the page and its actions."""
        path = f"{PATH}/{{ref:path}}"
        return [
            gate.action(f"{path}/cancel", self.cancel),
            gate.action(f"{path}/retry", self.retry),
            gate.page(path, self.show),
        ]

    async def show(self, visit: Visit) -> Response:
        """Show the story of a task."""
        given = read_query(visit.request, TaskPageFilter)
        explanation = await self._services.explainer.explain(visit.request.path_params["ref"])
        task, now = explanation.task, self._services.clock.now()
        story = tell_story(explanation, now=now)
        chosen = next((bar for bar in story.bars if bar.key == given.bar), None)
        cost, end = await self._services.costs.find(task.id), _final_event(explanation)
        return visit.page(
            "task.html",
            title=task.label or task.id,
            task=task,
            explanation=explanation,
            story=story,
            lines=[(bar, charts.span_bar(*_place(bar, story), bar.kind)) for bar in story.bars],
            chosen=chosen,
            charges=cost.charges if cost else {},
            id_hint=id_hint(task, now=now),
            deliveries=_newest_deliveries(explanation),
            results=None if end is None else results_of_event(end, self._services.results.previews),
            curl=_curl(visit, task, explanation.intent),
            may_cancel=task.state is TaskState.QUEUED,
            may_retry=task.state in RETRYABLE,
        )

    async def cancel(self, visit: Visit) -> Response:
        """Cancel a queued task."""
        task = await self._find(visit)
        why = reason(await visit.form())
        await self._services.submitter.cancel(task.id, reason=why, actor=visit.visitor.name)
        return visit.redirect(f"{PATH}/{task.id}", notice="The task is cancelled.")

    async def retry(self, visit: Visit) -> Response:
        """Submit a task that failed again."""
        task = await self._find(visit)
        why = reason(await visit.form())
        new = (await self._services.submitter.retry(task, reason=why, actor=visit.visitor.name)).task
        return visit.redirect(f"{PATH}/{new.id}", notice=f"This is the new task for {task.id}.")

    async def _find(self, visit: Visit) -> Task:
        ref = visit.request.path_params["ref"]
        task = await self._services.catalog.task(ref)
        if task is None:
            raise NotFound(f"There is no task {ref[:64]!r}.")
        return task


def _place(bar: Bar, story: Story) -> tuple[float, float]:
    start = story.axis.share(bar.start)
    return start, story.axis.share(bar.end) - start


def _newest_deliveries(explanation: TaskExplanation) -> list[DeliveryView]:
    """Return the deliveries that were not replayed."""
    replayed = {history.delivery.replay_of for history in explanation.deliveries}
    return [history.view for history in explanation.deliveries if history.delivery.id not in replayed]


def _final_event(explanation: TaskExplanation) -> Event | None:
    """Return the last event that ended the task."""
    return next((event for event in reversed(explanation.events) if event.type in END_EVENTS), None)


def _curl(visit: Visit, task: Task, intent: Json | None) -> str:
    """Return a command that submits the same request again. The token is a variable, never the token itself."""
    if intent is None or task.endpoint is None:
        return ""
    body = json.dumps({"endpoint": task.endpoint, "body": intent}, ensure_ascii=False)
    base = f"{visit.request.url.scheme}://{visit.request.headers.get('host', '')}"
    return "\n".join(
        (
            f"curl {shlex.quote(base + '/api/tasks')} \\",
            '  -H "Authorization: Bearer $KLING_RECEIVER_TOKEN" \\',
            "  -H 'Content-Type: application/json' \\",
            f"  -d {shlex.quote(body)}",
        )
    )
