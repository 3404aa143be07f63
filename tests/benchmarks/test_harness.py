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
from benchmarks import floor
from benchmarks.__main__ import main
from benchmarks.cpu import CpuMeter, cpu_seconds
from benchmarks.load import post_all, request
from benchmarks.measurement import compare_rates, compare_times, percentile, single_value
from benchmarks.measures import ALL
from benchmarks.measures.deliveries import a_forwarder, delivery_rate, sink_counter
from benchmarks.processes import run_load, run_load_on_one_loop, run_plain_loop, server_process
from benchmarks.sink import Sink
from benchmarks.workload import CALLBACK, STATUSES, forwarder_finished, new_deliveries, posts_to
from harness.ports import free_port

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
    figures = [single_value("a", 5, "ms", goal=4), single_value("b", 1, "ms")]
    monkeypatch.setitem(ALL, "start", lambda _: iter(figures))

    code = main(["--only", "start", "--strict", "--json", str(tmp_path / "folder" / "figures.json")])

    written = json.loads((tmp_path / "folder" / "figures.json").read_text())
    assert code == 1
    assert [(row["name"], row["value"], row["met"]) for row in written["figures"]] == [("a", 5, False), ("b", 1, True)]


def test_rates_are_compared_by_medians() -> None:
    found = compare_rates("a", [90, 1, 80], [100, 160, 100], goal=0.7, detail="")

    assert (found.ours, found.baseline, found.value, found.met) == (80, 100, 0.8, True)


def test_times_may_exceed_the_baseline_by_the_goals_factor() -> None:
    assert compare_times("a", [11.9], [10], goal=1.2, detail="").met
    assert not compare_times("a", [12.1], [10], goal=1.2, detail="").met


def test_a_cost_equal_to_its_goal_meets_it() -> None:
    assert single_value("a", 10, "ms", goal=10).met
    assert not single_value("a", 10.1, "ms", goal=10).met


def test_a_percentile_is_one_of_the_measured_times() -> None:
    assert [percentile([3, 1, 2, 4], percent) for percent in (0, 50, 99)] == [1, 3, 4]


def test_an_unknown_measurement_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--only", "nothing"])

    complaint = capsys.readouterr().err
    assert [name for name in ALL if name not in complaint] == []


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
