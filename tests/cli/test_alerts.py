"""Alerts from the command line."""

import json
from pathlib import Path

import pytest
from harness.fake_api import FakeService, Json

from receiver.cli import main


def make_alert(**changes: object) -> Json:
    return {
        "id": "alr_one",
        "type": "alert.route_held",
        "state": "open",
        "subject": "app",
        "message": "Route app is held.",
        "remedy": "Fix it.",
        "cause": "HTTP 500",
        "since": "2026-11-22T10:00:00.000Z",
        "last_seen_at": "2026-11-22T10:05:00.000Z",
        "times": 3,
        "event_id": "evt_one",
        "acknowledged": None,
        "closed_at": None,
        "closed_by": None,
    } | changes


def make_known(**changes: object) -> Json:
    acknowledged = {"at": "2026-11-22T10:06:00.000Z", "by": "anna", "note": "they are moving"}
    return make_alert(state="acknowledged", acknowledged=acknowledged, **changes)


@pytest.mark.parametrize(
    ("options", "query"),
    [
        ([], "state=open%2Cacknowledged&limit=50"),
        (["--past"], "state=closed&limit=50"),
        (["--all", "--subject", "app", "--type", "alert.account"], "type=alert.account&subject=app&limit=50"),
    ],
)
def test_alerts_list_shows_what_is_not_closed_unless_asked(
    service: FakeService, config: Path, capsys: pytest.CaptureFixture[str], options: list[str], query: str
) -> None:
    service.answer("/api/alerts", {"items": [make_alert(), make_known()], "next": None})

    assert main(["alerts", "list", *options, "--config", str(config)]) == 0

    first, second = (line.split("\t") for line in capsys.readouterr().out.splitlines())
    assert first[:4] == ["alr_one", "open", "alert.route_held", "app"]
    assert "anna: they are moving" in second
    assert service.requests == [("GET", f"/api/alerts?{query}", None)]


def test_alerts_ack_sends_the_note(service: FakeService, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    service.answer("/api/alerts/alr_one/ack", make_known())

    assert main(["alerts", "ack", "alr_one", "--note", "they are moving", "--config", str(config)]) == 0
    assert capsys.readouterr().out.startswith("alr_one\tacknowledged")
    assert service.requests == [("POST", "/api/alerts/alr_one/ack", {"note": "they are moving"})]

    assert main(["alerts", "ack", "alr_one", "--json", "--config", str(config)]) == 0
    assert json.loads(capsys.readouterr().out) == make_known()


def test_alerts_ack_says_that_an_earlier_note_stays(
    service: FakeService, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service.answer("/api/alerts/alr_one/ack", make_known())

    assert main(["alerts", "ack", "alr_one", "--note", "I look at it", "--config", str(config)]) == 0

    assert capsys.readouterr().err == "anna acknowledged it before: that note stays, and yours was not stored.\n"


def test_contradicting_options_are_a_usage_error(
    service: FakeService, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["alerts", "list", "--past", "--all", "--config", str(config)]) == 2
    assert "contradict" in capsys.readouterr().err
    assert service.requests == []


def test_an_unknown_alert_names_the_command_that_lists_them(
    service: FakeService, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    problem = {"code": "not_found", "detail": "There is no alert 'x'. To list them: `kling-receiver alerts list`."}
    service.answer("/api/alerts/x/ack", problem, status=404)

    assert main(["alerts", "ack", "x", "--config", str(config)]) == 1
    assert capsys.readouterr().err.count("alerts list") == 1
