"""A reload changes the running service under load: nothing is refused, lost or repeated. A faulty file changes nothing.

``RELOADS`` is the number of reloads under load.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from chaos.parameters import env_int
from harness.load import START_NUMBER, LoadGenerator, LoadReport, a_load_config, wait_until_delivered
from harness.raw_http import http_request
from harness.running_service import (
    SECRET,
    Receiver,
    a_config,
    a_push_body,
    a_receiver,
    a_sink,
    a_webhook_route,
    create_callback_url,
)
from harness.soak_report import RecordCounts
from harness.waiting import wait_until
from standardwebhooks import Webhook

RELOADS = env_int("RELOADS", 12)

NEW_SECRET = "whsec_dGhlIG5ldyBzZWNyZXQgb2YgdGhlIHJvdXRlLCAzMiBieXRlcw=="
TRUSTING = '[callbacks]\nverify = "never"\n'


async def reload(receiver: Receiver, config: str) -> dict[str, Any]:
    """Write a configuration and reload it. Return the answer."""
    receiver.configure(config)
    async with receiver.client() as client:
        answer = await client.post("/api/config/reload")
    assert answer.status_code == 200, answer.text
    changes: dict[str, Any] = answer.json()
    return changes


async def push_success(receiver: Receiver, number: int = 1) -> str:
    """Have a task end by a callback. Return its ID."""
    async with receiver.client() as client:
        task, url = await create_callback_url(client)
    answer = await http_request("POST", url, a_push_body("succeed", task_id=str(867283741759111000 + number)))
    assert answer.status == 200
    return str(task["id"])


@asynccontextmanager
async def a_trusting_receiver(folder: Path, routes: str) -> AsyncIterator[Receiver]:
    async with a_receiver(folder, a_config("http://127.0.0.1:9", more=TRUSTING + routes)) as receiver:
        yield receiver


@pytest.mark.soak("reloaded under load", minutes=6)
@pytest.mark.timeout(120 + 20 * RELOADS)
async def test_reloads_under_load_refuse_lose_and_repeat_nothing(tmp_path: Path, record_counts: RecordCounts) -> None:
    async with a_sink(check_signatures=False) as sink, a_sink(check_signatures=False) as other:
        base = a_load_config(sink)
        receiver = Receiver(tmp_path, base, environ={START_NUMBER: "0"})
        try:
            await receiver.start()
            load, stop = LoadGenerator(receiver), asyncio.Event()
            calling = asyncio.create_task(load.run(stop))
            rotated = base.replace(f'"{SECRET}"', f'["{NEW_SECRET}", "{SECRET}"]').replace(
                "concurrency = 8", "concurrency = 3"
            )
            variants = [
                base + a_webhook_route(other, name="second", extra='on = ["*"]'),
                rotated.replace("[kling]", "[poll]\nevery = '7m'\n[kling]\nslots = { video = 2, image = 5 }"),
                rotated + a_webhook_route(other, name="second", extra="on = ['succeed']\nrate = '500/s'"),
                base,
            ]

            for number in range(RELOADS):
                await load.wait_for_acknowledged(60)
                receiver.configure(variants[number % len(variants)])
                await send_reload(receiver, by_signal=number % 3 == 0)
            await load.wait_for_acknowledged(60)
            changes = await reload(receiver, variants[2])
            stop.set()
            await calling
            await wait_until_delivered(receiver)
            assert await receiver.stop() == 0
        finally:
            if receiver.process is not None and receiver.process.poll() is None:
                receiver.kill()

    report = LoadReport.from_run(load, sink)
    second = set(receiver.rows("SELECT event_id FROM deliveries WHERE route = 'second'"))
    record_counts(
        reloads=RELOADS + 1,
        callbacks_acknowledged=report.acknowledged,
        refused=load.refused_connections + load.failed_requests,
        lost=report.lost + report.undelivered,
        sent_twice=report.duplicates_within_run + sum(len(each) - 1 for each in other.received.values()),
        answers=load.statuses,
    )
    assert changes["needs_restart"] == []
    assert (load.refused_connections, load.failed_requests, set(load.statuses)) == (0, 0, {200, 201})
    assert (report.lost, report.undelivered, report.unknown) == (0, 0, 0)
    assert (report.duplicates_within_run, report.redeliveries.total()) == (0, 0)
    assert {event for (event,) in second} == set(other.received)
    assert all(len(each) == 1 for each in other.received.values())
    assert len(receiver.log_entries("configuration.reloaded")) == RELOADS + 1


async def send_reload(receiver: Receiver, *, by_signal: bool) -> None:
    """Reload as written, and wait until it is done."""
    done = len(receiver.log_entries("configuration.reloaded"))
    if by_signal:
        assert receiver.process is not None
        receiver.process.send_signal(signal.SIGHUP)
        await wait_until(lambda: len(receiver.log_entries("configuration.reloaded")) > done, interval=0.1)  # a long log
    else:
        async with receiver.client() as client:
            assert (await client.post("/api/config/reload")).status_code == 200


async def test_a_rotated_secret_signs_the_next_delivery(tmp_path: Path) -> None:
    async with a_sink(check_signatures=False) as sink:
        before = a_webhook_route(sink)
        async with a_trusting_receiver(tmp_path, before) as receiver:
            await push_success(receiver, 1)
            await wait_until(lambda: len(sink.bodies) == 1)

            changed = await reload(receiver, receiver.config_path.read_text().replace(SECRET, NEW_SECRET))
            await push_success(receiver, 2)
            await wait_until(lambda: len(sink.bodies) == 2)

            log = receiver.log()

    Webhook(SECRET).verify(sink.bodies[0], sink.headers[0])
    Webhook(NEW_SECRET).verify(sink.bodies[1], sink.headers[1])
    assert changed["changed"] == [{"key": "routes.hook.webhook.secret", "before": None, "after": None}]
    assert changed["routes_changed"] == ["hook"]
    assert SECRET not in log
    assert NEW_SECRET not in log


async def test_deliveries_of_a_removed_route_wait_until_it_is_configured_again(tmp_path: Path) -> None:
    async with a_sink() as sink:
        route = a_webhook_route(sink)
        async with a_trusting_receiver(tmp_path, route) as receiver:
            config = receiver.config_path.read_text()
            held = await receiver.run_cli_async("routes", "hold", "hook", "--why", "maintenance")
            await push_success(receiver)

            receiver.configure(config.replace(route, ""))
            removed = await receiver.run_cli_async("config", "reload")
            await push_success(receiver, 2)
            added = await reload(receiver, config)
            listed = json.loads((await receiver.run_cli_async("routes", "list", "--json")).stdout)["items"]
            await receiver.run_cli_async("routes", "release", "hook")
            await wait_until(lambda: receiver.rows("SELECT status FROM deliveries") == [("delivered",)])

    assert held.returncode == 0
    assert "route hook: removed; its 1 pending deliveries are kept" in removed.stdout
    assert (added["routes_added"], added["changed"]) == (["hook"], [])
    assert listed[0]["held_by"] == "operator", "the hold survives"
    assert len(sink.bodies) == 1, "an event from between belongs to no route"


async def test_an_attempt_in_flight_finishes_with_its_old_settings(tmp_path: Path) -> None:
    gate = asyncio.Event()

    async def answer() -> int:
        await gate.wait()
        return 204

    async with a_sink() as slow, a_sink() as fast:
        slow.answer = answer
        async with a_trusting_receiver(tmp_path, a_webhook_route(slow)) as receiver:
            await push_success(receiver)
            await wait_until(lambda: len(slow.bodies) == 1)

            await reload(receiver, receiver.config_path.read_text().replace(slow.url, fast.url))
            gate.set()
            await wait_until(lambda: receiver.rows("SELECT status FROM deliveries") == [("delivered",)])
            await push_success(receiver, 2)
            await wait_until(lambda: len(fast.bodies) == 1)

    assert len(slow.bodies) == 1


async def test_a_faulty_file_changes_nothing_and_says_where(tmp_path: Path) -> None:
    async with a_sink() as sink, a_trusting_receiver(tmp_path, a_webhook_route(sink)) as receiver:
        receiver.configure(receiver.config_path.read_text() + "\n[poll]\nevery = 'soon'\nevry = '5m'\n")
        line = receiver.config_path.read_text().splitlines().index("every = 'soon'") + 1

        refused = await receiver.run_cli_async("config", "reload")
        diff = await receiver.run_cli_async("config", "diff")
        assert receiver.process is not None
        receiver.process.send_signal(signal.SIGHUP)
        await wait_until(lambda: len(receiver.log_entries("configuration.rejected")) == 2)
        await push_success(receiver)
        await wait_until(lambda: len(sink.bodies) == 1)

    assert (refused.returncode, diff.returncode) == (78, 78)
    assert "The service continues with its former configuration." in refused.stderr
    assert f"config.toml:{line}: poll.every: " in refused.stderr
    assert f"config.toml:{line + 1}: poll.evry: unknown key" in refused.stderr


async def test_settings_that_need_a_restart_are_named_and_not_changed(tmp_path: Path) -> None:
    async with a_trusting_receiver(tmp_path, "") as receiver:
        old = receiver.public.removeprefix("http://")
        config = receiver.config_path.read_text()
        changed = config.replace(f'listen = "{old}"', 'listen = "127.0.0.1:1"') + '[store]\nurl = "sqlite:other.db"\n'
        receiver.config_path.write_text(changed + "[retention]\nbodies = '5d'\n")

        diff = await receiver.run_cli_async("config", "diff")
        reloaded = await receiver.run_cli_async("config", "reload", "--url", receiver.admin, "--token", receiver.token)
        again = await receiver.run_cli_async(
            "config", "diff", "--json", "--url", receiver.admin, "--token", receiver.token
        )
        health = await http_request("GET", f"{receiver.public}/healthz")

    assert diff.returncode != 0, "the token is looked for beside the other store"
    assert "retention.bodies: 30d -> 120h" in reloaded.stdout
    assert f"  public.listen: {old} -> 127.0.0.1:1" in reloaded.stdout
    assert "  store.url: " in reloaded.stdout
    printed = json.loads(again.stdout)
    assert (printed["applied"], printed["changed"]) == (False, [])
    assert [each["key"] for each in printed["needs_restart"]] == ["public.listen", "store.url"]
    assert health.status == 200


def address(receiver: Receiver) -> tuple[str, ...]:
    """The options with which a command needs no configuration file."""
    return "--url", receiver.admin, "--token", receiver.token


async def test_many_reloads_at_once_are_one_after_another(tmp_path: Path) -> None:
    async with a_trusting_receiver(tmp_path, "") as receiver, receiver.client() as client:
        receiver.config_path.write_text(receiver.config_path.read_text() + '[poll]\nevery = "9m"\n')
        assert receiver.process is not None

        calls = [asyncio.create_task(client.post("/api/config/reload")) for _ in range(8)]
        for _ in range(20):
            receiver.process.send_signal(signal.SIGHUP)
        answers = [(await call).json() for call in calls]

        assert sorted(len(each["changed"]) for each in answers) in ([0] * 7 + [1], [0] * 8)
        assert await receiver.stop() == 0


async def test_a_new_admin_token_is_taken_by_a_reload_of_systemd(tmp_path: Path) -> None:
    async with a_trusting_receiver(tmp_path, "") as receiver:
        config = receiver.config_path.read_text()
        receiver.config_path.write_text(config.replace("[admin]", '[admin]\ntoken = "the-new-admin-token"'))
        assert receiver.process is not None

        by_hand = await receiver.run_cli_async("config", "reload")
        receiver.environ["MAINPID"] = str(receiver.process.pid)  # as systemd does for ExecReload=
        by_systemd = await receiver.run_cli_async("config", "reload")
        listed = await receiver.run_cli_async("tasks", "list")

    assert by_hand.returncode == 1
    assert "systemctl reload" in by_hand.stderr
    assert (by_systemd.returncode, listed.returncode) == (0, 0), by_systemd.stderr


async def test_sighup_does_not_end_a_service_that_starts_or_stops(tmp_path: Path) -> None:
    receiver = Receiver(tmp_path, a_config("http://127.0.0.1:9"))
    receiver.spawn()
    assert receiver.process is not None
    try:
        await wait_until(lambda: "service.starting" in receiver.log())
        receiver.process.send_signal(signal.SIGHUP)
        await receiver.wait_until_ready()
        await wait_until(lambda: len(receiver.log_entries("configuration.reloaded")) == 1)

        receiver.terminate()
        receiver.process.send_signal(signal.SIGHUP)
        assert await receiver.wait_for_exit() == 0
    finally:
        receiver.process.kill()


# In a session of its own, whose terminal is the given one.
ON_TERMINAL = """
import fcntl, os, signal, sys, termios
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may have been started by nohup
os.setsid()
fcntl.ioctl(int(sys.argv[1]), termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, "-m", "receiver", "serve", "--config", sys.argv[2]])
"""


async def test_the_service_ends_with_its_terminal(tmp_path: Path) -> None:
    receiver = Receiver(tmp_path, a_config("http://127.0.0.1:9"))
    leader, follower = os.openpty()
    with receiver.log_path.open("wb") as log:
        receiver.process = subprocess.Popen(
            [sys.executable, "-c", ON_TERMINAL, str(follower), str(receiver.config_path)],
            pass_fds=[follower],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=receiver.environ,
            cwd=tmp_path,
        )
    os.close(follower)
    try:
        await receiver.wait_until_ready()

        os.close(leader)

        assert await receiver.wait_for_exit() == 0, receiver.log()[-4000:]
    finally:
        receiver.process.kill()
