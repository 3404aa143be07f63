"""The benchmark harness measures correctly: small runs against the comparison servers."""

import asyncio
from pathlib import Path

import pytest
from benchmarks.__main__ import main
from benchmarks.load import post_all, request
from benchmarks.measures import (
    ALL,
    CALLBACK,
    a_forwarder,
    compare_rates,
    compare_times,
    delivery_rate,
    forwarder_finished,
    percentile,
    single_value,
)
from benchmarks.processes import run_load, run_load_on_one_loop, server_process
from benchmarks.sink import Sink
from harness.ports import free_port


def test_generator_posts_each_request_once_and_counts_answers(tmp_path: Path) -> None:
    posts = [(f"/callbacks/{number}", "{}") for number in range(200)]

    with server_process("empty", folder=tmp_path) as port:
        ran = run_load(port, posts, tmp_path)

    assert ran.statuses == {200: 200}
    assert ran.rate > 0


def test_a_run_with_rejected_requests_fails(tmp_path: Path) -> None:
    with server_process("empty", folder=tmp_path) as port, pytest.raises(RuntimeError, match=r"\{200: 1, 404: 1\}"):
        run_load(port, [("/callbacks/one", "{}"), ("/elsewhere", "{}")], tmp_path)


async def test_generator_returns_answers_on_request(tmp_path: Path) -> None:
    with server_process("empty", folder=tmp_path) as port:
        ran = await post_all(port, [request("/callbacks/one", b"{}")] * 3, connections=2)

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

    with server_process("sink", folder=tmp_path) as sink, a_forwarder(sink, tmp_path) as port:
        rate = delivery_rate(port, posts, tmp_path, done=forwarder_finished(tmp_path))

    assert rate > 0
    assert forwarder_finished(tmp_path)() == 100


def test_rates_are_compared_by_medians() -> None:
    found = compare_rates("a", [90, 1, 80], [100, 160, 100], goal=0.7, detail="")

    assert (found.ours, found.baseline, found.value, found.met) == (80, 100, 0.8, True)


def test_times_may_exceed_the_baseline_up_to_the_goal() -> None:
    assert compare_times("a", [11.9], [10], goal=1.2, detail="").met
    assert not compare_times("a", [12.1], [10], goal=1.2, detail="").met


def test_a_cost_meets_its_goal_if_it_is_lower() -> None:
    assert single_value("a", 9.9, "ms", goal=10, detail="").met
    assert not single_value("a", 10, "ms", goal=10, detail="").met


def test_a_percentile_is_one_of_the_times() -> None:
    assert [percentile([3, 1, 2, 4], percent) for percent in (0, 50, 99)] == [1, 3, 4]


def test_an_unknown_measurement_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--only", "nothing"])

    complaint = capsys.readouterr().err
    assert [name for name in ALL if name not in complaint] == []
