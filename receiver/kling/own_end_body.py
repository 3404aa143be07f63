"""The body of a callback about a task that the receiver ended itself, in Kling's shape. Pure.

A client's code reads Kling's callbacks. Kling sends none for a task that it refused or never ended.
"""

import json
from datetime import datetime

from receiver.domain.clock import micros
from receiver.domain.model import Generation, Json, TaskState
from receiver.kling import endpoints

_FAILED = TaskState.FAILED.value
_NOT_ENDED = "Kling did not end the task in time."
_MICROS_PER_MILLISECOND = 1000


def own_end_body(envelope: bytes) -> bytes:
    """Return a failed callback for an event of type ``task.rejected`` or ``task.expired``."""
    event: Json = json.loads(envelope)
    data, task = event["data"], event["data"]["task"]
    endpoint = endpoints.resolve(task["endpoint"] or "")
    message = f"{data['status']}: {data['message'] or _NOT_ENDED}"
    created_at, ended_at = _millis(task["created_at"]), _millis(event["timestamp"])
    own = {"kling_receiver": {"type": event["type"], "event_id": data["event_id"], "task": task["id"]}}
    if endpoint is not None and endpoint.generation is Generation.NEW:
        return _to_json(
            {
                "id": task["kling_id"] or "",
                "status": _FAILED,
                "message": message,
                "create_time": created_at,
                "update_time": ended_at,
                "external_id": task["external_task_id"],
                "outputs": [],
            }
            | own
        )
    return _to_json(
        {
            "task_id": task["kling_id"] or "",
            "task_status": _FAILED,
            "task_status_msg": message,
            "task_info": {"external_task_id": task["external_task_id"]},
            "created_at": created_at,
            "updated_at": ended_at,
            "task_result": {},
        }
        | own
    )


def _millis(text: str) -> int:
    return micros(datetime.fromisoformat(text)) // _MICROS_PER_MILLISECOND


def _to_json(body: Json) -> bytes:
    return json.dumps(body, separators=(",", ":")).encode()
