"""The answer to a create, written anew from a stored task. Pure."""

import json

from receiver.domain.clock import micros
from receiver.domain.model import Generation, Json, Task, TaskState

_MICROS_PER_MILLISECOND = 1000


def created_answer(task: Task, generation: Generation) -> bytes:
    """Return what Kling answers to the create of *task*: a client that repeats the create finds the id as usual."""
    at = micros(task.created_at) // _MICROS_PER_MILLISECOND
    state, own_id = TaskState.SUBMITTED.value, task.external_task_id
    data: Json
    if generation is Generation.NEW:
        data = {"id": task.kling_id, "status": state, "external_id": own_id, "create_time": at, "update_time": at}
    else:
        info = {"external_task_id": own_id}
        data = {"task_id": task.kling_id, "task_status": state, "task_info": info, "created_at": at, "updated_at": at}
    return json.dumps({"code": 0, "message": "SUCCEED", "request_id": "", "data": data}).encode()
