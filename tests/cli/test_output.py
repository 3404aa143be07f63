"""Output: tables on a terminal, lines in a pipe, the API's JSON for programs."""

import io
import json
import re
from pathlib import Path

import pytest
from harness.fake_api import TASK_ID, FakeService, make_delivery, make_event, make_task
from harness.run_cli import run_cli, run_in_terminal
from rich.console import Console

from receiver.cli import main, render
from receiver.cli.render import print_json_line
from receiver.cli.task_columns import TASK_COLUMNS


def test_a_list_in_a_pipe_is_tab_separated_without_a_header(
    service: FakeService, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service.answer("/api/tasks", {"items": [make_task(tags={"project": "ads"}, message="ran\naway")], "next": "more"})

    code = main(["tasks", "list", "--config", str(config)])

    out, err = capsys.readouterr()
    assert code == 0
    assert out.split("\t") == [
        TASK_ID,
        "processing",
        "images/multi-image2image",
        "",
        "project=ads",
        "8672",
        "2026-11-22T10:00:00.000Z",
        "ran away\n",
    ]
    assert err == ""


def test_json_is_the_apis_answer(service: FakeService, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = {"items": [make_task(label="猫")], "next": "more"}
    service.answer("/api/tasks", answer)

    code = main(["tasks", "list", "--config", str(config), "--json"])

    assert code == 0
    assert json.loads(capsys.readouterr().out) == answer


@pytest.mark.parametrize("argv", [("events", "list"), ("events", "show", "evt_one")])
def test_json_escapes_control_characters_and_surrogates(
    service: FakeService, config: Path, argv: tuple[str, ...]
) -> None:
    event = make_event(message="\ud800 \\\u009b31m \x7f\x85\x9f\x1b[1m 猫 \xa0é🐈", kling={"\udfff": "\x80"})
    service.answer("/api/events", {"items": [event], "next": None})
    service.answer("/api/events/evt_one", event)

    ended = run_cli(*argv, "--json", "--config", config, env={"PYTHONUTF8": "1"})

    assert (ended.returncode, ended.stderr) == (0, "")
    assert json.loads(ended.stdout) in (event, {"items": [event], "next": None})
    assert '"\\ud800 \\\\\\u009b31m \\u007f\\u0085\\u009f\\u001b[1m 猫 \xa0é🐈"' in ended.stdout
    assert r'"\udfff": "\u0080"' in ended.stdout


def test_a_line_of_json_escapes_control_characters_too(capsys: pytest.CaptureFixture[str]) -> None:
    print_json_line({"message": "\ud800 \u009b31m 猫"})

    assert capsys.readouterr().out == '{"message": "\\ud800 \\u009b31m 猫"}\n'


@pytest.mark.parametrize(
    ("argv", "query"),
    [
        (["tasks", "list"], "/api/tasks?limit=50"),
        (
            ["tasks", "list", "--state", "failed", "--state", "expired", "--tag", "project=ads", "--limit", "7"],
            "/api/tasks?limit=7&state=failed&state=expired&tag=project%3Aads",
        ),
        (
            ["tasks", "list", "--endpoint", "images/x", "--label", "a b"],
            "/api/tasks?limit=50&endpoint=images%2Fx&label=a+b",
        ),
        (
            ["events", "list", "--type", "task.succeed", "--after", "evt_1"],
            "/api/events?limit=50&after=evt_1&type=task.succeed",
        ),
        (
            ["events", "list", "--type", "batch.finished", "--type", "alert.account_recovered"],
            "/api/events?limit=50&type=batch.finished&type=alert.account_recovered",
        ),
        (["tasks", "list", "--batch", "spring"], "/api/tasks?limit=50&batch=spring"),
        (["batches", "list", "--state", "open"], "/api/batches?limit=50&state=open"),
        (["events", "list", "--batch", "spring"], "/api/events?limit=50&batch=spring"),
        (["events", "list", "--task", "tsk_1", "--cursor", "c"], "/api/events?limit=50&cursor=c&task=tsk_1"),
        (["deliveries", "list", "--status", "dead", "--route", "r"], "/api/deliveries?limit=50&route=r&status=dead"),
        (["deliveries", "list", "--event", "evt_1"], "/api/deliveries?limit=50&event=evt_1"),
        (["routes", "list"], "/api/routes"),
    ],
)
def test_filters_are_sent_to_the_api(service: FakeService, config: Path, argv: list[str], query: str) -> None:
    for path in ("/api/tasks", "/api/batches", "/api/events", "/api/deliveries", "/api/routes"):
        service.answer(path, {"items": [], "next": None})

    code = main([*argv, "--config", str(config)])

    assert code == 0
    ((method, address, _),) = service.requests
    assert (method, sorted(re.split("[?&]", address))) == ("GET", sorted(re.split("[?&]", query)))


def test_a_task_shows_its_results(service: FakeService, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = {"images": [{"index": 0, "url": "https://cdn.example/0.png"}]}
    service.answer(f"/api/tasks/{TASK_ID}", make_task(state="succeed", result=result, assets=[]))

    code = main(["tasks", "show", TASK_ID, "--config", str(config)])

    lines = capsys.readouterr().out.splitlines()
    assert code == 0
    assert "state\tsucceed" in lines
    assert "result\thttps://cdn.example/0.png" in lines


def test_cancelled_is_a_state_of_its_own(
    service: FakeService, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = make_task(state="cancelled", message="cancelled by alice")
    service.answer("/api/tasks", {"items": [task], "next": None})
    service.answer("/api/tasks/tsk_one", task)

    assert main(["tasks", "list", "--config", str(config)]) == 0
    assert capsys.readouterr().out.split("\t")[1] == "cancelled"
    assert main(["tasks", "show", "tsk_one", "--config", str(config)]) == 0
    assert "state\tcancelled\n" in capsys.readouterr().out


def test_a_delivery_shows_each_attempt(service: FakeService, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    attempt = {
        "number": 1,
        "started_at": "2026-11-22T10:00:00.000Z",
        "duration_ms": 12,
        "outcome": "failed",
        "code": 500,
        "reason": "The destination answered 500.",
        "excerpt": "oh no",
    }
    service.answer("/api/deliveries/dlv_one", make_delivery(attempts_made=[attempt]))

    code = main(["deliveries", "show", "dlv_one", "--config", str(config)])

    lines = capsys.readouterr().out.splitlines()
    assert code == 0
    assert "status\tdead" in lines
    assert lines[-1] == (
        "attempt\t1\t2026-11-22T10:00:00.000Z\t12 ms\tfailed\t500\tThe destination answered 500.\toh no"
    )


def test_events_show_prints_the_json_that_destinations_receive(
    service: FakeService, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service.answer("/api/events/evt_one", make_event())

    code = main(["events", "show", "evt_one", "--config", str(config)])

    assert code == 0
    assert json.loads(capsys.readouterr().out) == make_event()


@pytest.mark.parametrize(("outcome", "code"), [("accepted", 0), ("failed", 1), ("refused", 1)])
def test_a_route_test_exits_with_the_attempts_outcome(
    service: FakeService, config: Path, outcome: str, code: int
) -> None:
    answer = {"outcome": outcome, "code": 200, "reason": "", "excerpt": "ok", "duration_ms": 3}
    service.answer("/api/routes/publish/test", answer)

    assert main(["routes", "test", "publish", "--config", str(config)]) == code
    assert service.requests[0][:2] == ("POST", "/api/routes/publish/test")


def test_a_callback_url_is_printed_alone(
    service: FakeService, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = "https://hooks.example/callbacks/secret"
    service.answer("/api/callback-urls", {"task": make_task(state="awaiting"), "callback_url": url}, status=201)

    code = main(
        ["callback-url", "--endpoint", "images/generations", "--label", "mine", "--tag", "a=b", "--config", str(config)]
    )

    assert code == 0
    assert capsys.readouterr().out == url + "\n"
    assert service.requests[0][2] == {"endpoint": "images/generations", "label": "mine", "tags": {"a": "b"}}


def test_a_typo_in_the_endpoint_of_a_callback_url_is_named(
    service: FakeService, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = "https://hooks.example/callbacks/secret"
    service.answer("/api/callback-urls", {"task": make_task(state="awaiting"), "callback_url": url}, status=201)

    assert main(["callback-url", "--endpoint", "images/generatons", "--config", str(config)]) == 0

    assert capsys.readouterr().err == ("images/generatons is not a listed endpoint. Did you mean images/generations?\n")


def test_a_callback_url_that_leaked_is_revoked(
    service: FakeService, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service.answer("/api/callback-urls/tsk_1/revoke", make_task(id="tsk_1"))

    code = main(["callback-url", "revoke", "tsk_1", "--config", str(config)])

    assert code == 0
    assert "tsk_1" in capsys.readouterr().out
    assert service.requests[0][:2] == ("POST", "/api/callback-urls/tsk_1/revoke")


def test_a_terminal_gets_a_coloured_table_without_foreign_escapes(service: FakeService, config: Path) -> None:
    service.answer("/api/tasks", {"items": [make_task(state="failed", message="\x1b]0;gotcha\x07")], "next": "more"})

    shown = run_in_terminal(["tasks", "list", "--config", str(config)])

    assert "MESSAGE" in shown
    assert "\x1b[31mfailed" in shown
    assert "\x1b]0" not in shown
    assert "--cursor more" in shown


TASK = "tsk_01k0xa6ze8cp20c1d6m5qppfm"
LISTS = {
    "tasks": make_task(id=TASK, kling_id="867283741759111202", message="Image pixel is invalid", state="submitting"),
    "events": make_event(event_id="evt_01k0xa70k6d2ba4a7q2n4ps7v", task={"id": TASK, "endpoint": "images/generations"}),
    "deliveries": make_delivery(id="dlv_01k0xa70k6d2ba4a7q2n4ps7v", task_id=TASK, status="delivered"),
}


@pytest.mark.parametrize("width", [60, 80])
@pytest.mark.parametrize("what", LISTS)
def test_a_table_fits_the_terminal_and_keeps_its_important_columns(
    service: FakeService, config: Path, what: str, width: int
) -> None:
    service.answer(f"/api/{what}", {"items": [LISTS[what]], "next": None})

    shown = run_in_terminal([what, "list", "--config", str(config)], COLUMNS=str(width), NO_COLOR="1")

    head, first, *rest = re.sub(r"\x1b\[[0-9;]*m", "", shown).splitlines()
    id_, state = first.split()[:2]
    assert max(map(len, (head, first))) <= width
    expected_id, expected_state, matters = {
        "tasks": (TASK, "submitting", "MESSAGE"),
        "events": ("evt_01k0xa70k6d2ba4a7q2n4ps7v", "task.succeed", "TASK"),
        "deliveries": ("dlv_01k0xa70k6d2ba4a7q2n4ps7v", "delivered", "ROUTE"),
    }[what]
    assert state == expected_state
    assert id_ == expected_id or id_ == expected_id[:16] + "…"
    assert ("IDs are cut. The shell completes them" in " ".join(rest)) == (id_ != expected_id)
    assert matters in head.split()


@pytest.mark.parametrize("width", range(41, 120))
def test_a_narrow_terminal_shortens_ids_before_it_drops_important_columns(width: int) -> None:
    tasks = [LISTS["tasks"], make_task(id=TASK, state="processing", label="spring", tags={"project": "ads"})]
    out = io.StringIO()

    laid = render.layout(TASK_COLUMNS, tasks, width)
    Console(file=out, width=width, color_system=None).print(laid.grid)

    head, *lines = out.getvalue().splitlines()
    titles = re.split(r" {2,}", head.strip())
    shown_id = TASK[:16] + "…" if laid.are_ids_cut else TASK
    assert titles[:2] == ["ID", "STATE"]
    assert laid.width <= width
    assert [line.split()[:2] for line in lines if line.startswith("tsk_")] == [
        [shown_id, "submitting"],
        [shown_id, "processing"],
    ]
    for title, text in {"ENDPOINT": "images/multi-image2image", "KLING ID": "867283741759111202"}.items():
        assert (title in titles) == (text in out.getvalue())
    assert len(titles) + len(laid.omitted) == 8


def test_a_name_is_never_cut() -> None:
    columns = (render.id_column("name", "name"), render.column("where"))

    laid = render.layout(columns, [{"name": "a-very-long-name-of-a-route-that-goes-on", "where": "x" * 60}], 50)

    assert not laid.are_ids_cut
    assert laid.width >= 40


def test_times_on_a_terminal_name_their_zone(service: FakeService, config: Path) -> None:
    service.answer("/api/tasks", {"items": [make_task()], "next": None})
    service.answer("/api/tasks/tsk_one", make_task())

    listed = run_in_terminal(["tasks", "list", "--config", str(config)], TZ="JST-9", NO_COLOR="1")
    shown = run_in_terminal(["tasks", "show", "tsk_one", "--config", str(config)], TZ="JST-9", NO_COLOR="1")

    assert re.search(r"CREATED \(JST\) .*\n.*11-22 19:00:00", listed)
    assert re.search(r"created at +\S*2026-11-22 19:00:00 JST", shown)


def test_an_id_wider_than_the_terminal_is_wrapped_and_not_cut(service: FakeService, config: Path) -> None:
    service.answer("/api/deliveries", {"items": [LISTS["deliveries"]], "next": None})

    shown = run_in_terminal(["deliveries", "list", "--config", str(config)], TASK_COLUMNS="20")

    assert "dlv_01k0xa70k6d2ba4a7q2n4ps7v" in shown


def test_no_color_is_obeyed(service: FakeService, config: Path) -> None:
    service.answer("/api/tasks", {"items": [make_task(state="failed")], "next": None})

    shown = run_in_terminal(["tasks", "list", "--config", str(config)], NO_COLOR="1")

    assert "failed" in shown
    assert "\x1b[31m" not in shown
