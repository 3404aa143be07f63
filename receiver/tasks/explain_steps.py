"""The steps of a task that are neither pushes nor deliveries: its create, Kling's answer, and each download. Pure."""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Literal, TypeAlias
from urllib.parse import urlsplit

import msgspec

from receiver.domain.model import Event, Json, Origin, Task, TaskState
from receiver.events.payload import result_urls

Kind: TypeAlias = Literal["create", "answer", "download"]

_ORIGINS = {
    Origin.API: "stored from the API",
    Origin.GATEWAY: "stored from the gateway",
    Origin.TEST: "created by `trigger`, to test the routes",
    Origin.MINTED: "callback URL created, for a job that is submitted elsewhere",
}
_ASSET_ALERTS = ("alert.asset_lost", "alert.asset_expiring")


class TaskStep(msgspec.Struct, frozen=True, kw_only=True):
    """One step: its time, its kind, how it went, and the details."""

    at: datetime
    kind: Kind
    state: str
    text: str


def task_steps(task: Task, events: Sequence[Event]) -> Sequence[TaskStep]:
    """Return the steps of a task, in the order of their kinds."""
    return [*_submit_steps(task), *_download_steps(events)]


def _submit_steps(task: Task) -> Iterator[TaskStep]:
    what = f"{task.endpoint or 'unknown endpoint'}, {_ORIGINS[task.origin]}"
    yield TaskStep(at=task.created_at, kind="create", state="stored", text=what)
    if task.origin in (Origin.MINTED, Origin.TEST):
        return
    if task.started_at is not None:
        yield TaskStep(at=task.started_at, kind="create", state="sent", text="to Kling")
    if task.state is TaskState.REJECTED:
        yield TaskStep(at=task.updated_at, kind="answer", state="rejected", text=task.message)
    elif task.kling_id is not None:
        sent_at = task.started_at or task.created_at
        yield TaskStep(at=sent_at, kind="answer", state="accepted", text=f"as Kling's task {task.kling_id}")
    elif task.message:
        yield TaskStep(at=task.updated_at, kind="answer", state="not yet", text=task.message)


def _download_steps(events: Sequence[Event]) -> Iterator[TaskStep]:
    reasons = _reasons(events)
    for event in events:
        if event.is_alert:
            continue
        data: Json = json.loads(event.envelope)["data"]
        assets = {asset["url"]: asset for asset in data.get("assets") or ()}
        if not assets and event.archiving is None and event.id not in reasons:
            continue  # there is no archive
        for url in result_urls(data.get("result") or {}):
            yield _download_step(event, url, assets.get(url), reasons.get(event.id, {}).get(url, ""))


def _download_step(event: Event, url: str, asset: Json | None, reason: str) -> TaskStep:
    if asset is not None:
        place = asset.get("path") or asset.get("storage")
        return TaskStep(at=event.created_at, kind="download", state="stored", text=f"{place}, {asset['bytes']} bytes")
    state = "given up" if event.archiving is None else "pending"
    name = urlsplit(url)._replace(query="", fragment="").geturl()
    return TaskStep(at=event.created_at, kind="download", state=state, text=f"{name}: {reason}" if reason else name)


def _reasons(events: Sequence[Event]) -> Mapping[str, Mapping[str, str]]:
    """Return by event and URL why a result is missing, as the newest alert about it says."""
    found: dict[str, dict[str, str]] = {}
    for event in events:
        if event.type in _ASSET_ALERTS:
            data: Json = json.loads(event.envelope)["data"]
            for result in data.get("results") or ():
                found.setdefault(data["event"], {})[result["url"]] = result["reason"]
    return found
