"""`kling-receiver explain`: everything that happened to a task, on one screen, and what is next."""

import json
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Annotated
from urllib.parse import quote

from cyclopts import Parameter

from receiver.cli import OK, render
from receiver.cli.options import CLIENT, ClientOptions, UsageError, not_found_hint
from receiver.cli.value_kinds import TASK_ID
from receiver.domain.errors import NotFound
from receiver.domain.model import Json

if TYPE_CHECKING:
    from receiver.client import SyncClient, Task

_FIRST_SHOWN, _LAST_SHOWN = 2, 3  # attempts of one delivery that are shown; those between are summed up
_MAX_BODY = 500
_STATE_WIDTH = 10
_MAX_REF = 64  # characters of an unknown ID in an error
_MAX_NAMED = 5  # tasks of one label that an error names
_UTC_TIME = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) UTC")
_TASK_FIELDS = (
    "message", "endpoint", "label", "batch", "kling_id", "external_task_id", "origin",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class TimelineEntry:
    """One thing that happened: its time, kind and state, a text, and more detail."""

    at: str
    kind: str
    state: str
    text: str
    detail: str = ""


def explain(
    task: Annotated[str, TASK_ID, Parameter(help="ID of the task: the receiver's, Kling's or external; or its label.")],
    /,
    *,
    output: ClientOptions = CLIENT,
) -> int:
    """Explain a task: its request, all pushes, each route's decision, each attempt, and what is next."""
    with not_found_hint("tasks list"), output.connect() as client:
        explanation = _fetch(client, task)
    if output.json:
        render.print_json(explanation)
        return OK
    details = _task_details(explanation)
    entries = sorted(_timeline(explanation), key=lambda entry: entry.at)  # stable: entries of one time keep their order
    if render.is_terminal():
        _print_timeline(details, entries, explanation["next"])
    else:
        render.details(details)
        for entry in entries:
            render.print_line(entry.at, entry.kind, entry.state, entry.text, entry.detail)
        render.print_line("next", explanation["next"])
    return OK


def _fetch(client: "SyncClient", ref: str) -> Json:
    """Return the explanation of the task with that ID, else of the only task with that label."""
    try:
        return client.get(f"/api/tasks/{quote(ref, safe='')}/explain")
    except NotFound as exc:
        labelled = client.tasks(label=ref, limit=_MAX_NAMED)
        if not labelled.items:
            raise NotFound(
                f"There is no task with the ID or label {ref[:_MAX_REF]!r}.",
                remedy="Use the receiver's ID, Kling's ID, the external ID or the label. "
                "To list them: `kling-receiver tasks list`.",
            ) from exc
    if len(labelled.items) > 1:
        raise _several_tasks_error(ref, labelled.items, has_more=labelled.next is not None)
    return client.get(f"/api/tasks/{labelled.items[0].id}/explain")


def _several_tasks_error(label: str, labelled: "Sequence[Task]", *, has_more: bool) -> UsageError:
    lines = [f"Several tasks have the label {label!r}. Explain one of them by its ID:"]
    lines += [f"  {each.id}  {each.state}  created at {render.local_time(each.raw['created_at'])}" for each in labelled]
    if has_more:
        lines.append(f"  and more: `kling-receiver tasks list --label {shlex.quote(label)}`")
    return UsageError("\n".join(lines))


def _task_details(explanation: Json) -> list[tuple[str, object]]:
    task = explanation["task"]
    fields: list[tuple[str, object]] = [("id", task.get("id")), ("state", task.get("state"))]
    fields += [(name.replace("_", " "), task.get(name)) for name in _TASK_FIELDS]
    if hint := explanation.get("kling_id_hint"):
        place = next(number for number, (name, _) in enumerate(fields) if name == "kling id")
        fields.insert(place + 1, ("kling id is", _in_local_time(hint)))
    fields.append(("created at", render.local_time(task.get("created_at"))))
    fields += [(f"tag {key}", value) for key, value in (task.get("tags") or {}).items()]
    intent = explanation.get("intent")
    text = "(no longer kept)" if intent is None else _truncate(json.dumps(intent, ensure_ascii=False), _MAX_BODY)
    return [*fields, ("body", "" if task.get("origin") == "minted" else text)]


def _timeline(explanation: Json) -> Iterator[TimelineEntry]:
    steps = explanation.get("steps") or ()  # an older service names none
    yield from (_step_line(step) for step in steps if step["kind"] != "download")
    for push in explanation["pushes"]:
        status = push.get("status") or "no status"
        yield TimelineEntry(
            at=push["received_at"],
            kind=push["source"],
            state=push["outcome"],
            text=f"{status}{_quoted(push.get('message'))}: {push['meaning']}",
            detail=_truncate(push["body"], _MAX_BODY) if push.get("body") else "(body no longer kept)",
        )
    for event in explanation["events"]:
        yield TimelineEntry(
            at=event["created_at"],
            kind="event",
            state=event["type"],
            text=f"{event['id']}, verified: {event['verified']}{_quoted(event.get('message'))}",
        )
        for decision in event["decisions"]:
            state = "wanted" if decision["wanted"] else "not wanted"
            yield TimelineEntry(
                at=event["created_at"], kind="route", state=state, text=f"{decision['route']}: {decision['reason']}"
            )
        for delivery in event["deliveries"]:
            yield from _delivery_lines(delivery)
    yield from (_step_line(step) for step in steps if step["kind"] == "download")
    for action in explanation["actions"]:
        subject = action["subject"] + (f": {action['why']}" if action["why"] else "")
        yield TimelineEntry(at=action["at"], kind="person", state=action["verb"], text=f"{action['actor']}, {subject}")


def _step_line(step: Json) -> TimelineEntry:
    return TimelineEntry(at=step["at"], kind=step["kind"], state=step["state"], text=step["text"])


def _delivery_lines(delivery: Json) -> Iterator[TimelineEntry]:
    replay = f", replay of {delivery['replay_of']}" if delivery.get("replay_of") else ""
    yield TimelineEntry(
        at=delivery["created_at"],
        kind="delivery",
        state=delivery["status"],
        text=f"{delivery['route']} {delivery['event_type']} {delivery['id']}{replay}",
    )
    attempts: Sequence[Json] = delivery["attempts_made"]
    skipped = attempts[_FIRST_SHOWN:-_LAST_SHOWN] if len(attempts) > _FIRST_SHOWN + _LAST_SHOWN else ()
    for attempt in attempts:
        if attempt in skipped:
            if attempt is skipped[0]:
                until = render.local_time(skipped[-1]["started_at"])
                text = f"{delivery['route']}: {len(skipped)} more attempts until {until}"
                yield TimelineEntry(at=attempt["started_at"], kind="attempt", state="...", text=text)
            continue
        duration, reason = f"{attempt['duration_ms']} ms", f": {attempt['reason']}" if attempt["reason"] else ""
        code = "" if attempt.get("code") is None else f" ({attempt['code']})"
        yield TimelineEntry(
            at=attempt["started_at"],
            kind="attempt",
            state=attempt["outcome"],
            text=f"{delivery['route']} #{attempt['number']} of {delivery['event_type']}{code}, {duration}{reason}",
            detail=_truncate(attempt["excerpt"], _MAX_BODY),
        )


def _print_timeline(details: Iterable[tuple[str, object]], entries: Iterable[TimelineEntry], next_step: str) -> None:
    """Print the timeline on a terminal. An entry's detail is on the next line, cut to the terminal's width."""
    from rich.text import Text

    console = render.console()
    render.details(details)
    console.print(Text(f"\ntimes are {render.local_zone()}", style="dim"))
    for entry in entries:
        head = f"{_format_time(entry.at)}  {entry.kind:<10}"
        state = render.coloured(render.clean(entry.state))
        state.pad_right(max(0, _STATE_WIDTH - len(state)))
        console.print(Text.assemble((head, "dim"), state, f"  {render.clean(entry.text)}"), soft_wrap=True)
        if entry.detail:
            detail = Text(" " * len(head) + render.clean(entry.detail), style="dim")
            console.print(detail, no_wrap=True, overflow="ellipsis", crop=True)
    console.print()
    console.print(Text.assemble(("next  ", "bold"), render.clean(_in_local_time(next_step))), soft_wrap=True)


def _in_local_time(text: str) -> str:
    """Return the service's sentences with their times in local time."""
    return _UTC_TIME.sub(lambda found: render.format_zoned_time(f"{found[1]}+00:00"), text)


def _format_time(timestamp: str) -> str:
    """Format a timestamp in local time with milliseconds, because many entries share a second."""
    return f"{datetime.fromisoformat(timestamp).astimezone():%m-%d %H:%M:%S.%f}"[:-3]


def _quoted(message: object) -> str:
    return f' "{message}"' if message else ""


def _truncate(text: str, max_length: int) -> str:
    return text if len(text) <= max_length else f"{text[:max_length]}... ({len(text)} characters)"
