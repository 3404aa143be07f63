"""`kling-receiver explain` on a terminal, and by a label."""

import re
from pathlib import Path
from typing import Any

import pytest
from harness.fake_api import FakeService, make_task
from harness.run_cli import run_cli, run_in_terminal

STEPS = [
    {"at": "2026-11-22T09:59:58.000Z", "kind": "create", "state": "stored", "text": "from the API"},
    {"at": "2026-11-22T09:59:59.000Z", "kind": "answer", "state": "accepted", "text": "as Kling's task 8672"},
]


def an_explanation(**changes: Any) -> dict[str, Any]:
    return {
        "task": make_task(),
        "intent": {"prompt": "a cat"},
        "steps": STEPS,
        "pushes": [],
        "events": [],
        "actions": [],
        "next": "It is polled at 2026-11-22 12:00:00 UTC.",
    } | changes


def test_a_terminal_has_one_time_zone(service: FakeService, config: Path) -> None:
    hint = "made at 2026-11-22 09:59:59 UTC by its number; a hint"
    service.answer("/api/tasks/tsk_one/explain", an_explanation(kling_id_hint=hint))

    shown = run_in_terminal(["explain", "tsk_one", "--config", str(config)], TZ="JST-9", NO_COLOR="1")

    text = re.sub(r"\x1b\[[0-9;]*m", "", shown)
    assert re.search(r"created at +2026-11-22 19:00:00 JST", text)
    assert "times are JST" in text
    assert re.search(r"kling id is +made at 2026-11-22 18:59:59 JST by its number; a hint", text)
    assert re.search(r"11-22 18:59:58\.000  create +stored +from the API", text)
    assert re.search(r"11-22 18:59:59\.000  answer +accepted +as Kling's task 8672", text)
    assert "It is polled at 2026-11-22 21:00:00 JST." in text
    assert "UTC" not in text


def test_a_label_names_its_only_task(service: FakeService, config: Path) -> None:
    service.answer("/api/tasks", {"items": [make_task(label="spring 17")], "next": None})
    service.answer("/api/tasks/tsk_one/explain", an_explanation())

    explained = run_cli("explain", "spring 17", "--config", config)

    assert (explained.returncode, explained.stderr) == (0, "")
    assert "answer\taccepted\tas Kling's task 8672" in explained.stdout
    assert any("label=spring+17" in path for _, path, _ in service.requests)


def test_a_label_of_several_tasks_is_an_error_that_names_them(service: FakeService, config: Path) -> None:
    service.answer("/api/tasks", {"items": [make_task(), make_task(id="tsk_two", state="failed")], "next": "more"})

    explained = run_cli("explain", "spring", "--config", config)

    assert explained.returncode == 2
    assert (
        "Several tasks have the label 'spring'. Explain one of them by its ID:\n"
        "  tsk_one  processing  created at 2026-11-22T10:00:00.000Z\n"
        "  tsk_two  failed  created at 2026-11-22T10:00:00.000Z\n"
        "  and more: `kling-receiver tasks list --label spring`\n" in explained.stderr
    )


@pytest.mark.parametrize("ref", ["nothing", "tsk_none"])
def test_a_task_that_does_not_exist_is_still_an_error(service: FakeService, config: Path, ref: str) -> None:
    service.answer("/api/tasks", {"items": [], "next": None})

    explained = run_cli("explain", ref, "--config", config)

    assert explained.returncode == 1
    assert f"There is no task with the ID or label {ref!r}." in explained.stderr
    assert "Use the receiver's ID, Kling's ID, the external ID or the label." in explained.stderr
    assert "`kling-receiver tasks list`" in explained.stderr
