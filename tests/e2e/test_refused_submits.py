"""A submit that Kling refuses is an error with the task and the reason, on every way in."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from harness.running_service import ENDPOINT, JOB, Receiver, a_config, a_receiver, a_recording_server
from harness.web_app import RecordingServer
from starlette.responses import JSONResponse

from receiver import Client

REASON = "prompt is too long"
REFUSAL = {"code": 1201, "message": REASON, "request_id": "r1"}
TASK = {"endpoint": ENDPOINT, "body": JOB}


@dataclass(frozen=True)
class Refused:
    """A running service whose Kling refuses every create."""

    receiver: Receiver
    kling: RecordingServer

    async def submit(self, task: dict[str, Any] = TASK, **headers: str) -> tuple[int, str, dict[str, Any]]:
        """Submit a task; return the response's status, media type and object."""
        async with self.receiver.client() as client:
            answer = await client.post("/api/tasks", json=task, headers=headers)
            return answer.status_code, answer.headers["content-type"], answer.json()


@pytest.fixture
async def refused(tmp_path: Path) -> AsyncIterator[Refused]:
    async with a_recording_server() as (kling, url):
        kling.answer = lambda _: JSONResponse(REFUSAL, 400)
        async with a_receiver(tmp_path, a_config(url)) as receiver:
            yield Refused(receiver, kling)


async def test_a_refused_submit_is_answered_with_an_error_the_task_and_the_reason(refused: Refused) -> None:
    status, media_type, problem = await refused.submit()

    assert (status, media_type, problem["code"]) == (422, "application/problem+json", "task_refused")
    assert problem["task"]["state"] == "rejected"
    assert REASON in problem["task"]["message"]
    assert problem["task"]["id"] in problem["detail"]
    assert REASON in problem["detail"]


async def test_a_repeat_of_a_refused_submit_gets_the_same_error(refused: Refused) -> None:
    task = {**TASK, "idempotency_key": "order-17"}

    _, _, first = await refused.submit(task)
    status, _, again = await refused.submit(task)

    assert status == 422
    assert again["task"]["id"] == first["task"]["id"]
    assert (first["task"]["existing"], again["task"]["existing"]) == (False, True)
    assert len(refused.kling.requests) == 1


async def test_a_queued_task_and_one_stored_without_waiting_are_accepted(refused: Refused) -> None:
    refused.kling.answer = lambda _: JSONResponse({"code": 1303, "message": "no free slot"}, 429)

    status, _, queued = await refused.submit()
    unsent, _, stored = await refused.submit(prefer="respond-async")

    assert (status, queued["state"]) == (202, "queued")
    assert (unsent, stored["state"]) == (202, "queued")


async def test_the_commands_and_the_client_say_the_reason(refused: Refused) -> None:
    arguments = ("submit", ENDPOINT, "--body", json.dumps(JOB))

    plain = await refused.receiver.run_cli_async(*arguments)
    as_json = await refused.receiver.run_cli_async(*arguments, "--json")
    waited = await refused.receiver.run_cli_async(*arguments, "--wait")
    async with Client(refused.receiver.admin, refused.receiver.token) as client:
        task = await client.submit(ENDPOINT, JOB)

    assert (plain.returncode, as_json.returncode, waited.returncode) == (1, 1, 1)
    message = f"was rejected: Kling refused (HTTP 400, code 1201): {REASON}."
    assert message in plain.stderr
    assert message in waited.stderr
    assert json.loads(as_json.stdout)["state"] == "rejected"
    assert REASON in json.loads(as_json.stdout)["message"]
    assert (task.state, task.is_finished) == ("rejected", True)
    assert REASON in task.message


async def test_a_file_of_refused_jobs_ends_with_their_reasons(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "jobs.jsonl").write_text("".join(f'{{"prompt": "cat {number}"}}\n' for number in range(3)))

    done = await refused.receiver.run_cli_async("submit", ENDPOINT, "--body", "@jobs.jsonl", "--wait", "--json")

    assert done.returncode == 1
    states = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(each["line"], each["state"]) for each in states] == [(1, "rejected"), (2, "rejected"), (3, "rejected")]
    assert all(REASON in each["message"] for each in states)
