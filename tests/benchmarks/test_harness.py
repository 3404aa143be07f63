"""The benchmark harness measures correctly: small runs against the comparison servers."""

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from benchmarks import floor, profile
from benchmarks.__main__ import main
from benchmarks.cpu import CpuMeter, cpu_seconds
from benchmarks.load import post_all, request
from benchmarks.measurement import Measurement, Scale, compare_rates, compare_times, percentile, single_value
from benchmarks.measures import ALL
from benchmarks.measures.deliveries import a_forwarder, delivery_rate, sink_counter
from benchmarks.processes import (
    ROOT,
    a_storing_receiver,
    run_load,
    run_load_on_one_loop,
    run_plain_loop,
    server_process,
)
from benchmarks.sink import Sink
from benchmarks.workload import CALLBACK, STATUSES, callbacks, forwarder_finished, new_deliveries, posts_to
from harness.ports import free_port
from harness.waiting import wait_until

from receiver.domain.clock import Ids, SystemClock


def test_generator_posts_each_request_once_and_counts_answers(tmp_path: Path) -> None:
    posts = [(f"/callbacks/{number}", "{}") for number in range(200)]

    with server_process("empty", folder=tmp_path) as server:
        ran = run_load(server.port, posts, tmp_path)

    assert ran.statuses == {200: 200}
    assert ran.rate > 0


def test_a_run_with_rejected_requests_fails(tmp_path: Path) -> None:
    with server_process("empty", folder=tmp_path) as server, pytest.raises(RuntimeError, match=r"\{200: 1, 404: 1\}"):
        run_load(server.port, [("/callbacks/one", "{}"), ("/elsewhere", "{}")], tmp_path)


async def test_generator_returns_answers_on_request(tmp_path: Path) -> None:
    with server_process("empty", folder=tmp_path) as server:
        ran = await post_all(server.port, [request("/callbacks/one", b"{}")] * 3, connections=2)

    assert ran.bodies == [b'{"ok":true}'] * 3


def test_generator_can_share_the_servers_loop(tmp_path: Path) -> None:
    ran = run_load_on_one_loop(free_port(), [(f"/callbacks/{number}", "{}") for number in range(200)], tmp_path)

    assert ran.statuses == {200: 200}
    assert len(ran.times) == 200


async def test_sink_accepts_all_webhooks_of_a_connection() -> None:
    arrived: list[None] = []
    server = await asyncio.get_running_loop().create_server(lambda: Sink(lambda: arrived.append(None)), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]

    ran = await post_all(port, [request("/hook", b"{}")] * 5, connections=1)
    server.close()

    assert (ran.statuses, len(arrived)) == ({200: 5}, 5)


def test_simple_forwarder_delivers_and_records(tmp_path: Path) -> None:
    posts = [(f"/callbacks/{number}", CALLBACK.format(id=number, status="succeed")) for number in range(100)]

    with server_process("sink", folder=tmp_path) as sink, a_forwarder(sink.port, tmp_path) as by_hand:
        rate = delivery_rate(by_hand.port, posts, tmp_path, done=forwarder_finished(tmp_path))

    assert rate > 0
    assert forwarder_finished(tmp_path)() == 100


def test_only_new_deliveries_are_counted_and_then_the_file_is_free(tmp_path: Path) -> None:
    ids = Ids(SystemClock())
    with closing(sqlite3.connect(tmp_path / "receiver.db", isolation_level=None)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("CREATE TABLE deliveries (id TEXT PRIMARY KEY, route TEXT, status TEXT, attempts INTEGER)")

        def add(route: str, status: str, attempts: int) -> None:
            database.execute("INSERT INTO deliveries VALUES (?, ?, ?, ?)", (ids.new("dlv"), route, status, attempts))

        add("one", "delivered", 1)
        with closing(new_deliveries(tmp_path)) as count_all, closing(new_deliveries(tmp_path, "one")) as count_one:
            add("one", "delivered", 1)
            add("other", "delivered", 1)
            add("one", "delivered", 2)
            add("one", "pending", 1)
            assert (count_all(), count_one()) == (2, 1)

        assert database.execute("PRAGMA journal_mode = MEMORY").fetchone() == ("memory",)


def test_floor_stores_push_task_event_and_delivery_before_it_answers(tmp_path: Path) -> None:
    with server_process("floor", str(tmp_path), folder=tmp_path) as server:
        paths = floor.create_callback_urls(tmp_path, 50)
        for status in STATUSES:
            run_load(server.port, posts_to(paths, statuses=[status]), tmp_path)

    queries = ("SELECT id FROM pushes", "SELECT id FROM events", "SELECT id FROM deliveries")
    assert [len(_column(tmp_path, query)) for query in queries] == [150, 150, 150]
    assert _column(tmp_path, "SELECT state FROM tasks") == ["succeed"] * 50


def test_floor_gives_no_event_for_a_push_that_moves_no_state(tmp_path: Path) -> None:
    with server_process("floor", str(tmp_path), folder=tmp_path) as server:
        paths = floor.create_callback_urls(tmp_path, 1)
        for status in ("succeed", "succeed", "processing"):
            run_load(server.port, posts_to(paths, statuses=[status]), tmp_path)

    assert _column(tmp_path, "SELECT type FROM events") == ["task.succeed"]
    assert _column(tmp_path, "SELECT state FROM tasks") == ["succeed"]


@pytest.mark.parametrize("acknowledged_before_kill", [1, 40, 200])
async def test_floor_loses_no_acknowledged_callback_when_killed(tmp_path: Path, acknowledged_before_kill: int) -> None:
    paths = floor.create_callback_urls(tmp_path, 2000)
    acknowledged: list[str] = []
    with server_process("floor", str(tmp_path), folder=tmp_path) as server:

        async def post(remaining: Iterator[str]) -> None:
            for path in remaining:
                body = CALLBACK.format(id=path, status="succeed").encode()
                ran = await post_all(server.port, [request(path, body)], connections=1)
                acknowledged.extend([path] * ran.statuses.get(200, 0))
                if len(acknowledged) >= acknowledged_before_kill:
                    os.kill(server.pid, signal.SIGKILL)

        remaining = iter(paths)
        await asyncio.gather(*(post(remaining) for _ in range(16)), return_exceptions=True)

    stored = {json.loads(body)["task_id"] for body in _column(tmp_path, "SELECT body FROM pushes")}
    assert len(acknowledged) >= acknowledged_before_kill
    assert set(acknowledged) <= stored


def test_plain_loops_report_rate_and_cpu_time(tmp_path: Path) -> None:
    with server_process("sink", folder=tmp_path) as sink:
        loops = [run_plain_loop(client, sink.port, 40) for client in ("ours", "aiohttp")]
        received = sink_counter(sink.port)()

    assert received == 80
    assert [found for found in [*loops, run_plain_loop("spawn", 0, 5)] if found["rate"] <= 0] == []


def test_cpu_time_includes_children_that_have_ended() -> None:
    before = cpu_seconds(os.getpid())
    subprocess.run([sys.executable, "-c", "import time\nwhile time.process_time() < 0.2: pass"], check=True)

    assert cpu_seconds(os.getpid()) - before >= 0.15


def test_cpu_meter_counts_the_work_of_a_round() -> None:
    work = "input()\nimport time\nwhile time.process_time() < 0.3: pass\nprint('done', flush=True)\ninput()"
    with subprocess.Popen([sys.executable, "-c", work], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        meter = CpuMeter(process.pid)
        meter.start()
        process.stdin.write(b"\n")
        process.stdin.flush()
        process.stdout.readline()
        each = meter.microseconds_each(10)
        process.stdin.write(b"\n")
        process.stdin.flush()

    assert 15_000 < each < 100_000


def test_results_are_written_as_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = [single_value("a", 5, "ms", target=4), single_value("b", 1, "ms")]
    monkeypatch.setitem(ALL, "start", lambda _: iter(figures))

    code = main(["--only", "start", "--strict", "--json", str(tmp_path / "folder" / "figures.json")])

    written = json.loads((tmp_path / "folder" / "figures.json").read_text())
    assert code == 1
    assert [(row["name"], row["value"], row["met"]) for row in written["figures"]] == [("a", 5, False), ("b", 1, None)]


def test_figures_are_kept_when_a_later_group_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Scale) -> Iterator[Measurement]:
        raise RuntimeError("the sink is gone")
        yield

    monkeypatch.setitem(ALL, "start", lambda _: iter([single_value("a", 5, "ms")]))
    monkeypatch.setitem(ALL, "storage", fail)

    with pytest.raises(RuntimeError, match="the sink is gone"):
        main(["--only", "start", "--only", "storage", "--json", str(tmp_path / "figures.json")])

    written = json.loads((tmp_path / "figures.json").read_text())
    assert [(row["group"], row["name"]) for row in written["figures"]] == [("start", "a")]
    assert written["is_finished"] is False


def test_a_file_that_cannot_be_written_is_refused_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = []

    def measure(size: Scale) -> Iterator[Measurement]:
        measured.append(size)
        yield single_value("a", 5, "ms")

    monkeypatch.setitem(ALL, "start", measure)

    with pytest.raises(SystemExit, match="2"):
        main(["--only", "start", "--json", str(tmp_path)])

    assert measured == []
    assert f"cannot write {tmp_path}: Is a directory. Name a file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "size", "complaint"),
    [
        ("--rounds", "0", "argument --rounds: must be at least 1"),
        ("--callbacks", "2", "argument --callbacks: must be at least 3"),
        ("--events", "999", "argument --events: must be at least 1000"),
        ("--submits", "-5", "argument --submits: must be at least 1"),
        ("--probes", "many", "argument --probes: 'many' is not a whole number"),
    ],
)
def test_a_size_that_cannot_be_measured_is_a_usage_error(
    option: str, size: str, complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([option, size])

    assert complaint in capsys.readouterr().err


def test_a_profiler_that_fails_is_reported_with_its_own_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    py_spy = tmp_path / "py-spy"
    py_spy.write_text("#!/bin/sh\necho 'Permission Denied: try again as root' >&2\nexit 1\n")
    py_spy.chmod(0o755)
    monkeypatch.setattr(profile, "PY_SPY", py_spy)
    monkeypatch.setitem(profile.PROFILED, "acknowledged", 30)

    code = main(["--profile", "acknowledged"])

    printed = capsys.readouterr()
    assert (code, printed.out) == (1, "")
    assert printed.err.endswith("wrote no flame graph. It said:\nPermission Denied: try again as root\n")


def test_a_profile_refuses_options_without_effect(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--profile", "acknowledged", "--only", "start"])

    assert "leave out --only" in capsys.readouterr().err


async def test_a_terminated_run_stops_the_servers_that_it_measures(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "--only", "acknowledged", "--json", str(tmp_path / "figures.json")]
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    with (tmp_path / "log").open("wb") as log, subprocess.Popen(command, env=env, stdout=log, stderr=log) as run:
        await wait_until(lambda: len(_children(run.pid)) >= 2)
        servers = _children(run.pid)
        run.terminate()
        await asyncio.to_thread(run.wait, 60)

    assert run.returncode == 128 + signal.SIGTERM
    assert [pid for pid in servers if _is_running(pid)] == []


def test_callbacks_of_a_held_route_make_deliveries_that_wait(tmp_path: Path) -> None:
    with a_storing_receiver(tmp_path) as running:
        posts = callbacks(running, 30)
        run_load(running.public, posts, tmp_path, connections=1)

    with closing(sqlite3.connect(tmp_path / "receiver.db")) as connection:
        found = connection.execute("SELECT status, count(*) FROM deliveries GROUP BY status").fetchall()
    assert found == [("pending", 30)]


def test_rates_are_compared_by_medians() -> None:
    found = compare_rates("a", [90, 1, 80], [100, 160, 100], target=0.7, detail="")

    assert (found.ours, found.baseline, found.value, found.met) == (80, 100, 0.8, True)


def test_times_may_exceed_the_baseline_by_the_goals_factor() -> None:
    assert compare_times("a", [11.9], [10], target=1.2, detail="").met
    assert not compare_times("a", [12.1], [10], target=1.2, detail="").met


def test_a_cost_equal_to_its_goal_meets_it() -> None:
    assert single_value("a", 10, "ms", target=10).met
    assert not single_value("a", 10.1, "ms", target=10).met


def test_a_percentile_is_one_of_the_measured_times() -> None:
    assert [percentile([3, 1, 2, 4], percent) for percent in (0, 50, 99)] == [1, 3, 4]


def test_an_unknown_measurement_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--only", "nothing"])

    complaint = capsys.readouterr().err
    assert [name for name in ALL if name not in complaint] == []


def _children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def _is_running(pid: str) -> bool:
    return Path(f"/proc/{pid}").exists()


def _column(folder: Path, query: str) -> list[Any]:
    with closing(sqlite3.connect(folder / "floor.db")) as connection:
        return [value for (value,) in connection.execute(query)]


def test_the_proxy_returns_the_answers_of_the_minimal_kling(tmp_path: Path) -> None:
    with (
        server_process("kling", folder=tmp_path) as kling,
        server_process("proxy", str(kling.port), folder=tmp_path) as proxy,
    ):
        ran = asyncio.run(post_all(proxy.port, [request("/v1/images/generations", b"{}")] * 3, connections=2))

    assert ran.statuses == {200: 3}
    assert len({json.loads(body)["data"]["task_id"] for body in ran.bodies}) == 3
