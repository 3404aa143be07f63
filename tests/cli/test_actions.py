"""Holding, retrying, replaying and explaining from the command line."""

import getpass
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from harness.fake_api import TASK_ID, FakeService, make_delivery, make_task

from receiver.cli import main

TIMESTAMP = "2026-11-22T10:00:00.000Z"
PREVIEW = {
    "dry_run": True,
    "total": 2,
    "by": [{"route": "publish", "status": "dead", "count": 2, "oldest_at": TIMESTAMP, "newest_at": TIMESTAMP}],
    "sample": [],
}


def a_replay(**changes: object) -> dict[str, Any]:
    selection = {"route": "publish", "status": ["dead"], "events": [], "to_route": None}
    replay = {
        "id": "rpl_one",
        "state": "done",
        "total": 2,
        "created": 2,
        "selection": selection,
        "pace": "5/s",
        "actor": "alice",
        "why": "",
        "created_at": TIMESTAMP,
        "finished_at": TIMESTAMP,
    }
    return replay | changes


def a_route(**changes: object) -> dict[str, Any]:
    return {"name": "publish", "kind": "webhook", "on": ["succeed"], "endpoints": [], "held_at": None} | changes


@pytest.mark.parametrize("verb", ["hold", "release"])
def test_a_route_is_held_and_released_with_a_reason(
    service: FakeService, config: Path, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    service.answer(f"/api/routes/publish/{verb}", a_route(held_at=TIMESTAMP, held_by="operator"))

    code = main(["routes", verb, "publish", "--why", "they are moving", "--config", str(config)])

    assert code == 0
    assert service.requests == [("POST", f"/api/routes/publish/{verb}", {"why": "they are moving"})]
    assert "held\toperator" in capsys.readouterr().out


def test_the_users_name_is_sent_as_actor(service: FakeService, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "zoë")
    service.answer("/api/routes/publish/hold", a_route())

    assert getpass.getuser() == "zoë"
    assert main(["routes", "hold", "publish", "--config", str(config)]) == 0
    assert service.actors == ["zo\\xeb"]


def test_a_delivery_is_retried(service: FakeService, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    again = make_delivery(id="dlv_two", status="pending", replay_of="dlv_one", attempts=0, finished_at=None)
    service.answer("/api/deliveries/dlv_one/retry", again, status=202)

    code = main(["deliveries", "retry", "dlv_one", "--config", str(config)])

    assert code == 0
    assert service.requests[0] == ("POST", "/api/deliveries/dlv_one/retry", {})
    lines = capsys.readouterr().out.splitlines()
    assert "id\tdlv_two" in lines
    assert "replay of\tdlv_one" in lines


@pytest.mark.parametrize(
    ("held_by", "note"),
    [
        (None, ""),
        ("failures", "Route publish is held. The delivery is sent with the next probe, within a minute.\n"),
        (
            "operator",
            "Route publish is held. The delivery waits until the route is released: `kling-receiver routes rel",
        ),
    ],
)
def test_a_retry_on_a_held_route_says_when_it_is_sent(
    service: FakeService, config: Path, capsys: pytest.CaptureFixture[str], held_by: str | None, note: str
) -> None:
    service.answer("/api/deliveries/dlv_one/retry", make_delivery(status="pending", finished_at=None), status=202)
    service.answer("/api/routes", {"items": [a_route(held_by=held_by)], "next": None})

    assert main(["deliveries", "retry", "dlv_one", "--config", str(config)]) == 0

    err = capsys.readouterr().err
    assert err.startswith(note)
    assert bool(err) is bool(note)


def test_a_dry_run_only_shows_what_would_be_sent(
    service: FakeService, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service.answer("/api/replays", PREVIEW)

    code = main(["replay", "--route", "publish", "--status", "dead", "--dry-run", "--config", str(config)])

    assert code == 0
    assert service.requests == [("POST", "/api/replays", {"route": "publish", "status": ["dead"], "dry_run": True})]
    assert capsys.readouterr().out == f"publish\tdead\t2\t{TIMESTAMP}\t{TIMESTAMP}\n"


def test_a_replay_prints_its_plan_then_its_progress(
    service: FakeService, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = [PREVIEW, a_replay(state="running", created=0)]
    service.answer("/api/replays", lambda: answers.pop(0))
    sightings = [a_replay(state="running", created=1), a_replay()]
    service.answer("/api/replays/rpl_one", lambda: sightings.pop(0))

    argv = ["replay", "--route", "publish", "--from", "2026-11-22T10:00:00Z", "--pace", "5/s", "--why", "the outage"]
    code = main([*argv, "--config", str(config)])

    out, err = capsys.readouterr()
    assert code == 0
    assert service.requests[1][2] == {
        "route": "publish",
        "from": "2026-11-22T10:00:00+00:00",
        "pace": "5/s",
        "why": "the outage",
    }
    assert err.splitlines() == [
        "2 to replay: publish (2 dead)",
        "rpl_one  1 of 2",
        "rpl_one  2 of 2",
    ]
    assert "state\tdone" in out.splitlines()
    assert "selection\troute=publish status=dead" in out.splitlines()


def test_an_empty_replay_starts_nothing(service: FakeService, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    service.answer("/api/replays", PREVIEW | {"total": 0, "by": []})

    code = main(["replay", "--status", "dead", "--json", "--config", str(config)])

    assert code == 0
    assert len(service.requests) == 1
    assert json.loads(capsys.readouterr().out)["total"] == 0


def test_a_time_may_be_a_duration_ago(service: FakeService, config: Path) -> None:
    service.answer("/api/replays", PREVIEW | {"total": 0, "by": []})

    main(["replay", "--status", "dead", "--from", "2h", "--to", "2026-11-22 10:00", "--config", str(config)])

    body = service.requests[0][2]
    ago = datetime.now(UTC) - datetime.fromisoformat(body["from"])  # noqa: TID251 -- the machine's own time is meant
    assert timedelta(hours=2) <= ago < timedelta(hours=3)
    assert datetime.fromisoformat(body["to"]) == datetime(2026, 11, 22, 10, 0).astimezone()


@pytest.mark.parametrize("text", ["yesterday", "0001-01-01T00:00+23:00", "9999-12-31T23:00-10:00"])
def test_an_invalid_time_is_a_usage_error(
    text: str, service: FakeService, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["replay", "--status", "dead", "--from", text, "--config", str(config)]) == 2
    assert "two hours ago" in capsys.readouterr().err
    assert service.requests == []


def test_replays_are_listed_shown_and_cancelled(
    service: FakeService, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service.answer("/api/replays", {"items": [a_replay()], "next": None})
    service.answer("/api/replays/rpl_one", a_replay())
    service.answer("/api/replays/rpl_one/cancel", a_replay(state="cancelled"))

    codes = [main(["replay", *argv, "--config", str(config)]) for argv in (["list"], ["show", "rpl_one"])]
    codes.append(main(["replay", "cancel", "rpl_one", "--why", "enough", "--config", str(config)]))

    assert codes == [0, 0, 0]
    assert service.requests[-1] == ("POST", "/api/replays/rpl_one/cancel", {"why": "enough"})
    out = capsys.readouterr().out
    assert out.startswith("rpl_one\tdone\t2 of 2\t5/s\troute=publish status=dead\t")
    assert "state\tcancelled" in out


def an_explanation() -> dict[str, Any]:
    attempts = [
        {
            "number": number,
            "started_at": f"2026-11-22T10:{number:02}:00.000Z",
            "duration_ms": 3.5,
            "outcome": "failed",
            "code": 500,
            "reason": "500: it has trouble.",
            "excerpt": "oh\nno",
        }
        for number in range(1, 11)
    ]
    return {
        "task": make_task(state="succeed"),
        "intent": {"prompt": "a cat"},
        "steps": [
            {"at": "2026-11-22T09:59:58.000Z", "kind": "create", "state": "stored", "text": "from the API"},
            {"at": "2026-11-22T10:00:01.000Z", "kind": "download", "state": "stored", "text": "/a/0.png, 9 bytes"},
        ],
        "pushes": [
            {
                "id": "psh_one",
                "source": "callback",
                "received_at": "2026-11-22T10:00:01.000Z",
                "outcome": "applied",
                "meaning": "changed the task",
                "status": "succeed",
                "message": "",
                "body": '{"task_status":"succeed"}',
                "bytes": 25,
            },
            {
                "id": "psh_two",
                "source": "poll",
                "received_at": "2026-11-22T10:00:03.000Z",
                "outcome": "duplicate",
                "meaning": "said what was known",
                "status": None,
                "message": "",
                "body": None,
                "bytes": 0,
            },
        ],
        "events": [
            {
                "id": "evt_one",
                "type": "task.succeed",
                "created_at": "2026-11-22T10:00:01.000Z",
                "source": "callback",
                "verified": "api",
                "message": "",
                "push_id": "psh_one",
                "decisions": [
                    {"route": "publish", "wanted": True, "reason": "all conditions hold"},
                    {"route": "other", "wanted": False, "reason": 'on = ["failed"] does not name "succeed"'},
                ],
                "deliveries": [
                    make_delivery(created_at="2026-11-22T10:00:01.000Z", status="pending", attempts_made=attempts)
                ],
            }
        ],
        "actions": [
            {
                "at": "2026-11-22T10:00:02.000Z",
                "actor": "alice",
                "verb": "delivery.retried",
                "subject": "dlv_one",
                "why": "hurry",
            }
        ],
        "next": "publish: attempt 10 failed; the next is at 2026-11-22 12:00:00 UTC.",
    }


def test_explain_lists_everything_in_order_of_time(
    service: FakeService, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    story = an_explanation()
    service.answer(f"/api/tasks/{TASK_ID}/explain", {**story, "task": {**story["task"], "batch": "spring"}})

    code = main(["explain", TASK_ID, "--config", str(config)])

    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert code == 0
    assert ["body", '{"prompt": "a cat"}'] in lines
    assert ["batch", "spring"] in lines
    steps = [line[1:3] for line in lines if line[0].startswith("2026-11-22T")]
    assert steps == [
        ["create", "stored"],
        ["callback", "applied"],
        ["event", "task.succeed"],
        ["route", "wanted"],
        ["route", "not wanted"],
        ["delivery", "pending"],
        ["download", "stored"],
        ["person", "delivery.retried"],
        ["poll", "duplicate"],
        ["attempt", "failed"],
        ["attempt", "failed"],
        ["attempt", "..."],
        ["attempt", "failed"],
        ["attempt", "failed"],
        ["attempt", "failed"],
    ]
    text = "\n".join("\t".join(line) for line in lines)
    assert "5 more attempts until 2026-11-22T10:07" in text
    assert '{"task_status":"succeed"}' in text
    assert "(body no longer kept)" in text
    assert "publish #10 of task.succeed (500), 3.5 ms: 500: it has trouble.\toh no" in text
    assert lines[-1] == ["next", an_explanation()["next"]]


def test_explain_json_is_the_apis_answer(
    service: FakeService, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service.answer(f"/api/tasks/{TASK_ID}/explain", an_explanation())

    assert main(["explain", TASK_ID, "--json", "--config", str(config)]) == 0
    assert json.loads(capsys.readouterr().out) == an_explanation()


def test_explain_states_that_a_body_is_no_longer_kept(
    service: FakeService, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    story = an_explanation() | {"intent": None, "pushes": [], "events": [], "actions": []}
    service.answer(f"/api/tasks/{TASK_ID}/explain", story)

    assert main(["explain", TASK_ID, "--config", str(config)]) == 0
    assert "body\t(no longer kept)" in capsys.readouterr().out
