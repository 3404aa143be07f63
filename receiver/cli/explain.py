"""`kling-receiver explain`: a task's whole story on one screen, and what comes next."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated
from urllib.parse import quote

from cyclopts import Parameter

from receiver.cli import OK, render
from receiver.cli.options import OUTPUT, OutputOptions
from receiver.client import SyncClient
from receiver.domain.model import Json

_FIRST_SHOWN, _LAST_SHOWN = 2, 3  # of the attempts at one delivery, where there were many
_MAX_BODY = 500
_STATE_WIDTH = 10
_TASK_FIELDS = (
    "id", "state", "message", "endpoint", "label", "batch", "kling_id", "external_task_id", "origin", "created_at",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class TimelineEntry:
    """Something that happened: when, what kind of thing, how it stands, and the rest in words."""

    at: str
    kind: str
    state: str
    text: str
    detail: str = ""


def explain(
    task: Annotated[str, Parameter(help="Our id, Kling's, or the external one.")], /, *, output: OutputOptions = OUTPUT
) -> int:
    """Tell a task's whole story: what was wanted, what arrived, what each route decided, each attempt, what is next."""
    with SyncClient(config=output.config) as client:
        story = client.get(f"/api/tasks/{quote(task, safe='')}/explain")
    if output.json:
        render.print_json(story)
        return OK
    facts = _task_details(story)
    lines = sorted(_timeline(story), key=lambda line: line.at)  # stable: what is told at one moment stays in order
    if render.is_terminal():
        _print_timeline(facts, lines, story["next"])
    else:
        render.details(facts)
        for line in lines:
            render.print_line(line.at, line.kind, line.state, line.text, line.detail)
        render.print_line("next", story["next"])
    return OK


def _task_details(explanation: Json) -> list[tuple[str, object]]:
    task = explanation["task"]
    facts: list[tuple[str, object]] = [(name.replace("_", " "), task.get(name)) for name in _TASK_FIELDS]
    facts += [(f"tag {key}", value) for key, value in (task.get("tags") or {}).items()]
    intent = explanation.get("intent")
    told = "(no longer kept)" if intent is None else _truncate(json.dumps(intent, ensure_ascii=False), _MAX_BODY)
    return [*facts, ("intent", "" if task.get("origin") == "minted" else told)]


def _timeline(explanation: Json) -> Iterator[TimelineEntry]:
    for push in explanation["pushes"]:
        said = push.get("status") or "no status"
        yield TimelineEntry(
            at=push["received_at"],
            kind=push["source"],
            state=push["outcome"],
            text=f"{said}{_quoted(push.get('message'))}: {push['meaning']}",
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
            word = "wanted" if decision["wanted"] else "not wanted"
            yield TimelineEntry(
                at=event["created_at"], kind="route", state=word, text=f"{decision['route']}: {decision['reason']}"
            )
        for delivery in event["deliveries"]:
            yield from _delivery_lines(delivery)
    for action in explanation["actions"]:
        about = action["subject"] + (f": {action['why']}" if action["why"] else "")
        yield TimelineEntry(at=action["at"], kind="person", state=action["verb"], text=f"{action['actor']}, {about}")


def _delivery_lines(delivery: Json) -> Iterator[TimelineEntry]:
    again = f", again after {delivery['replay_of']}" if delivery.get("replay_of") else ""
    yield TimelineEntry(
        at=delivery["created_at"],
        kind="delivery",
        state=delivery["status"],
        text=f"{delivery['route']} {delivery['event_type']} {delivery['id']}{again}",
    )
    attempts: Sequence[Json] = delivery["attempts_made"]
    skipped = attempts[_FIRST_SHOWN:-_LAST_SHOWN] if len(attempts) > _FIRST_SHOWN + _LAST_SHOWN else ()
    for attempt in attempts:
        if attempt in skipped:
            if attempt is skipped[0]:
                text = f"{delivery['route']}: and {len(skipped)} more attempts until {skipped[-1]['started_at']}"
                yield TimelineEntry(at=attempt["started_at"], kind="attempt", state="...", text=text)
            continue
        took, why = f"{attempt['duration_ms']} ms", f": {attempt['reason']}" if attempt["reason"] else ""
        code = "" if attempt.get("code") is None else f" ({attempt['code']})"
        yield TimelineEntry(
            at=attempt["started_at"],
            kind="attempt",
            state=attempt["outcome"],
            text=f"{delivery['route']} #{attempt['number']} of {delivery['event_type']}{code}, {took}{why}",
            detail=_truncate(attempt["excerpt"], _MAX_BODY),
        )


def _print_timeline(details: Iterable[tuple[str, object]], entries: Iterable[TimelineEntry], next_step: str) -> None:
    """Lay the story out for a person: details a line below, cut to the screen's width."""
    from rich.text import Text

    console = render.console()
    render.details(details)
    console.print()
    for line in entries:
        head = f"{_format_time(line.at)}  {line.kind:<10}"
        state = render.coloured(render.clean(line.state))
        state.pad_right(max(0, _STATE_WIDTH - len(state)))
        console.print(Text.assemble((head, "dim"), state, f"  {render.clean(line.text)}"), soft_wrap=True)
        if line.detail:
            below = Text(" " * len(head) + render.clean(line.detail), style="dim")
            console.print(below, no_wrap=True, overflow="ellipsis", crop=True)
    console.print()
    console.print(Text.assemble(("next  ", "bold"), render.clean(next_step)), soft_wrap=True)


def _format_time(timestamp: str) -> str:
    """Write a moment in this machine's own time, to the millisecond: much happens in one second."""
    return f"{datetime.fromisoformat(timestamp).astimezone():%m-%d %H:%M:%S.%f}"[:-3]


def _quoted(message: object) -> str:
    return f' "{message}"' if message else ""


def _truncate(text: str, max_length: int) -> str:
    return text if len(text) <= max_length else f"{text[:max_length]}... ({len(text)} characters)"
