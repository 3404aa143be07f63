"""`kling-receiver explain`: a task's whole story on one screen, and what comes next."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated
from urllib.parse import quote

from cyclopts import Parameter

from receiver.cli import OK, render
from receiver.cli.options import READING, Reading
from receiver.client import SyncClient
from receiver.domain.model import Json

_FIRST, _LAST = 2, 3  # of the attempts at one delivery, where there were many
_BODY = 500
_STATE = 10
_HEAD = (
    "id", "state", "message", "endpoint", "label", "batch", "kling_id", "external_task_id", "origin", "created_at",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Something that happened: when, what kind of thing, how it stands, and the rest in words."""

    at: str
    kind: str
    state: str
    text: str
    detail: str = ""


def explain(
    task: Annotated[str, Parameter(help="Our id, Kling's, or the external one.")], /, *, reading: Reading = READING
) -> int:
    """Tell a task's whole story: what was wanted, what arrived, what each route decided, each attempt, what is next."""
    with SyncClient(config=reading.config) as client:
        story = client.get(f"/api/tasks/{quote(task, safe='')}/explain")
    if reading.json:
        render.as_json(story)
        return OK
    facts = _head(story)
    lines = sorted(_lines(story), key=lambda line: line.at)  # stable: what is told at one moment stays in order
    if render.is_terminal():
        _screen(facts, lines, story["next"])
    else:
        render.fields(facts)
        for line in lines:
            render.line(line.at, line.kind, line.state, line.text, line.detail)
        render.line("next", story["next"])
    return OK


def _head(story: Json) -> list[tuple[str, object]]:
    task = story["task"]
    facts: list[tuple[str, object]] = [(name.replace("_", " "), task.get(name)) for name in _HEAD]
    facts += [(f"tag {key}", value) for key, value in (task.get("tags") or {}).items()]
    intent = story.get("intent")
    told = "(no longer kept)" if intent is None else _cut(json.dumps(intent, ensure_ascii=False), _BODY)
    return [*facts, ("intent", "" if task.get("origin") == "minted" else told)]


def _lines(story: Json) -> Iterator[Line]:
    for push in story["pushes"]:
        said = push.get("status") or "no status"
        yield Line(
            at=push["received_at"],
            kind=push["source"],
            state=push["outcome"],
            text=f"{said}{_quoted(push.get('message'))}: {push['meaning']}",
            detail=_cut(push["body"], _BODY) if push.get("body") else "(body no longer kept)",
        )
    for event in story["events"]:
        yield Line(
            at=event["created_at"],
            kind="event",
            state=event["type"],
            text=f"{event['id']}, verified: {event['verified']}{_quoted(event.get('message'))}",
        )
        for decision in event["decisions"]:
            word = "wanted" if decision["wanted"] else "not wanted"
            yield Line(
                at=event["created_at"], kind="route", state=word, text=f"{decision['route']}: {decision['reason']}"
            )
        for delivery in event["deliveries"]:
            yield from _errand(delivery)
    for action in story["actions"]:
        about = action["subject"] + (f": {action['why']}" if action["why"] else "")
        yield Line(at=action["at"], kind="person", state=action["verb"], text=f"{action['actor']}, {about}")


def _errand(delivery: Json) -> Iterator[Line]:
    again = f", again after {delivery['replay_of']}" if delivery.get("replay_of") else ""
    yield Line(
        at=delivery["created_at"],
        kind="delivery",
        state=delivery["status"],
        text=f"{delivery['route']} {delivery['event_type']} {delivery['id']}{again}",
    )
    attempts: Sequence[Json] = delivery["attempts_made"]
    skipped = attempts[_FIRST:-_LAST] if len(attempts) > _FIRST + _LAST else ()
    for attempt in attempts:
        if attempt in skipped:
            if attempt is skipped[0]:
                text = f"{delivery['route']}: and {len(skipped)} more attempts until {skipped[-1]['started_at']}"
                yield Line(at=attempt["started_at"], kind="attempt", state="...", text=text)
            continue
        took, why = f"{attempt['duration_ms']} ms", f": {attempt['reason']}" if attempt["reason"] else ""
        code = "" if attempt.get("code") is None else f" ({attempt['code']})"
        yield Line(
            at=attempt["started_at"],
            kind="attempt",
            state=attempt["outcome"],
            text=f"{delivery['route']} #{attempt['number']} of {delivery['event_type']}{code}, {took}{why}",
            detail=_cut(attempt["excerpt"], _BODY),
        )


def _screen(facts: Iterable[tuple[str, object]], lines: Iterable[Line], outlook: str) -> None:
    """Lay the story out for a person: details a line below, cut to the screen's width."""
    from rich.text import Text

    console = render.console()
    render.fields(facts)
    console.print()
    for line in lines:
        head = f"{_local(line.at)}  {line.kind:<10}"
        state = render.coloured(render.clean(line.state))
        state.pad_right(max(0, _STATE - len(state)))
        console.print(Text.assemble((head, "dim"), state, f"  {render.clean(line.text)}"), soft_wrap=True)
        if line.detail:
            below = Text(" " * len(head) + render.clean(line.detail), style="dim")
            console.print(below, no_wrap=True, overflow="ellipsis", crop=True)
    console.print()
    console.print(Text.assemble(("next  ", "bold"), render.clean(outlook)), soft_wrap=True)


def _local(moment: str) -> str:
    """Write a moment in this machine's own time, to the millisecond: much happens in one second."""
    return f"{datetime.fromisoformat(moment).astimezone():%m-%d %H:%M:%S.%f}"[:-3]


def _quoted(message: object) -> str:
    return f' "{message}"' if message else ""


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[:longest]}... ({len(text)} characters)"
