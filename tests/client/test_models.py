"""The client's values have the members that the API's definition has."""

from dataclasses import FrozenInstanceError, fields
from typing import Any

import pytest

from receiver.client import Batch, Page, Task
from receiver.domain.api_schema import tasks as api
from receiver.domain.api_schema.json_object import Page as ApiPage


@pytest.mark.parametrize(("value", "definition"), [(Task, api.TaskDetails), (Batch, api.Batch), (Page, ApiPage)])
def test_a_value_has_every_member_and_the_complete_json(value: Any, definition: Any) -> None:
    assert {each.name for each in fields(value)} == {each.name for each in fields(definition)} | {"raw"}


def test_a_value_cannot_be_changed() -> None:
    task: Any = Task(id="tsk_1", state="queued")

    with pytest.raises(FrozenInstanceError):
        task.state = "succeed"


def test_members_that_a_service_omits_have_their_defaults() -> None:
    raw = {"id": "tsk_1", "state": "queued", "tags": None}

    task = Task.from_json(raw)

    assert (task.tags, task.result, task.assets, task.cost, task.priority) == ({}, {}, (), None, 0)
    assert task.raw is raw


def test_members_of_a_newer_service_are_only_in_the_json() -> None:
    raw = {"id": "tsk_1", "state": "queued", "raw": 1, "new": 2, "cost": {"charges": {"units": "1.5"}, "new": 3}}

    task = Task.from_json(raw)

    assert task.cost == api.TaskCost(charges={"units": "1.5"})
    assert task.raw is raw


def test_equal_tasks_are_equal_values() -> None:
    raw = {"id": "tsk_1", "state": "queued", "tags": {"a": "b"}}

    assert Task.from_json(raw) == Task.from_json(dict(raw))
    assert "tsk_1" in repr(Task.from_json(raw))
