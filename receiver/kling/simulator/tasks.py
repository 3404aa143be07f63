"""A simulated task, and its JSON in each generation of the API."""

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from random import Random

from receiver.domain.clock import micros
from receiver.domain.model import Json
from receiver.kling.simulator.endpoints import Endpoint, image_count
from receiver.kling.simulator.film import FRAMES, FRAMES_PER_SECOND
from receiver.kling.simulator.results import SECONDS

SUBMITTED, PROCESSING, SUCCEED, FAILED = "submitted", "processing", "succeed", "failed"

_NEW_STATUSES = {SUCCEED: "succeeded"}
_OUTPUT_TYPES = {
    "videos": "video",
    "images": "image",
    "series_images": "image",
    "audios": "audio",
    "elements": "element",
    "voices": "voice",
}

Result = Mapping[str, list[Json]]
UrlOf = Callable[[str], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskUpdate:
    """A task's status at a point in time. ``result`` is None if there is none."""

    status: str
    at: datetime
    message: str = ""
    result: Result | None = None


@dataclass(slots=True, kw_only=True, eq=False)
class Task:
    """One simulated task.

    ``shown_id`` is the id in the answer to the create, which may be a gateway's; callbacks contain ``id``.
    ``price`` is in units, or in money of a postpaid account; callbacks do not tell which.
    ``last_send`` is the newest callback in the queue, ``held_back`` are reordered callbacks, and ``callbacks_done`` is
    set after the last callback.
    """

    id: str
    shown_id: str
    endpoint: Endpoint
    body: Json
    external_task_id: str
    callback_url: str | None
    rng: Random
    created_at: datetime
    update: TaskUpdate
    slot_key: str = ""
    weight: int = 1
    price: Decimal = Decimal(1)
    query_count: int = 0
    result_at: datetime | None = None
    held_back: list[tuple[str, bytes]] = field(default_factory=list)
    last_send: asyncio.Task[None] | None = None
    callbacks_done: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_finished(self) -> bool:
        """Whether the task is in a final state."""
        return self.update.status in (SUCCEED, FAILED)


def render(task: Task, update: TaskUpdate, *, shown_id: str) -> Json:
    """Return an update of a task as JSON of its generation, the same in callbacks and answers."""
    return _new(task, update, shown_id) if task.endpoint.is_new else _legacy(task, update, shown_id)


def summary(task: Task) -> Json:
    """Return the data of the answer to a create."""
    at = millis(task.created_at)
    if task.endpoint.is_new:
        own = {"external_id": task.external_task_id} if task.external_task_id else {}
        return {"id": task.shown_id, "status": SUBMITTED, "message": "", "create_time": at, "update_time": at} | own
    own = {"external_task_id": task.external_task_id} if task.external_task_id else {}
    return {
        "task_id": task.shown_id,
        "task_status": SUBMITTED,
        "task_info": own,
        "created_at": at,
        "updated_at": at,
    }


def _legacy(task: Task, update: TaskUpdate, shown_id: str) -> Json:
    info: Json = {"external_task_id": task.external_task_id} if task.external_task_id else {}
    if task.endpoint.path == "videos/video-extend":
        info["parent_video"] = {"id": task.body.get("video_id", ""), "url": "", "duration": "5.1"}
    rendered: Json = {
        "task_id": shown_id,
        "task_status": update.status,
        "task_status_msg": update.message,
        "task_info": info,
        "created_at": millis(task.created_at),
        "updated_at": millis(update.at),
    }
    if update.result is not None:
        rendered["task_result"] = dict(update.result)
    # Before the end Kling omits the result, or sends null or {}; each task uses one of the three.
    elif (blank := millis(task.created_at) % 3) > 0:
        rendered["task_result"] = None if blank == 1 else {}
    if isinstance(mark := task.body.get("watermark_info"), dict):
        rendered["watermark_info"] = mark
    if update.status == SUCCEED:
        rendered["final_unit_deduction"] = format(task.price, "f")
        rendered["final_balance_deduction"] = {"quota": "0", "list_price": "0"}
    return rendered


def _new(task: Task, update: TaskUpdate, shown_id: str) -> Json:
    outputs = [
        {"type": _OUTPUT_TYPES.get(kind, "video")} | entry
        for kind, some in (update.result or {}).items()
        for entry in some
    ]
    bill = {"charge_type": "unit", "package_type": task.endpoint.pack or "audio", "amount": f"{task.price:.2f}"}
    return {
        "id": shown_id,
        "status": _NEW_STATUSES.get(update.status, update.status),
        "message": update.message,
        "create_time": millis(task.created_at),
        "update_time": millis(update.at),
        "outputs": outputs,
        "billing": [bill] if update.status == SUCCEED else [],
    } | ({"external_id": task.external_task_id} if task.external_task_id else {})


def make_result(endpoint: Endpoint, body: Json, task_id: str, url_of: UrlOf) -> Result:
    """Return the result of a successful task; *url_of* maps a file name to its URL."""
    made = {}
    for kind in endpoint.result_kinds:
        named = "series_images" if kind == "images" and body.get("result_type") == "series" else kind
        made[named if named != "multi_shots" else "images"] = _RESULT_MAKERS[kind](body, task_id, url_of)
    return made


def _images(body: Json, _task_id: str, url_of: UrlOf) -> list[Json]:
    return [
        {"index": n, "url": url_of(f"image-{n}.png")} | _watermark(body, url_of, f"image-{n + 100}.png")
        for n in range(image_count(body))
    ]


def _videos(body: Json, task_id: str, url_of: UrlOf) -> list[Json]:
    made = {"id": f"{task_id}-0", "url": url_of("video-0.mp4"), "duration": f"{FRAMES / FRAMES_PER_SECOND:.1f}"}
    return [made | _watermark(body, url_of, "video-100.mp4")]


def _watermark(body: Json, url_of: UrlOf, name: str) -> Json:
    where = body.get("watermark_info")
    return {"watermark_url": url_of(name)} if isinstance(where, dict) and where.get("enabled") is True else {}


def _audios(_body: Json, task_id: str, url_of: UrlOf) -> list[Json]:
    urls = {"url_mp3": url_of("audio-0.mp3"), "url_wav": url_of("audio-0.wav")}
    return [{"id": f"{task_id}-0"} | urls | {"duration_mp3": f"{SECONDS}.0", "duration_wav": f"{SECONDS}.0"}]


def _elements(body: Json, task_id: str, url_of: UrlOf) -> list[Json]:
    name = str(body.get("element_name", ""))
    return [{"element_id": task_id, "element_name": name, "element_frontal_image": url_of("image-0.png")}]


def _voices(body: Json, task_id: str, url_of: UrlOf) -> list[Json]:
    name = str(body.get("voice_name", ""))
    return [{"voice_id": task_id, "voice_name": name, "trial_url": url_of("audio-0.mp3"), "owned_by": "user"}]


def _multi_shots(_body: Json, _task_id: str, url_of: UrlOf) -> list[Json]:
    return [{"index": 0} | {f"url_{n}": url_of(f"image-{n}.png") for n in (1, 2, 3)}]


_RESULT_MAKERS: Mapping[str, Callable[[Json, str, UrlOf], list[Json]]] = {
    "images": _images,
    "videos": _videos,
    "audios": _audios,
    "elements": _elements,
    "voices": _voices,
    "multi_shots": _multi_shots,
}


def envelope(request_id: str, data: object = None, *, code: int | str = 0, message: str = "SUCCEED") -> Json:
    """Return an answer in Kling's envelope; an error has no ``data``."""
    answer: Json = {"code": code, "message": message, "request_id": request_id}
    return answer if data is None else answer | {"data": data}


def encode(value: object) -> bytes:
    """Return compact UTF-8 JSON."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def millis(at: datetime) -> int:
    """Return a time in milliseconds since the epoch, like Kling."""
    return micros(at) // 1000
