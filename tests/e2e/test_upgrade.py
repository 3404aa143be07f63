"""A start migrates an older store within systemd's limit, and the manual's commands lead back.

``MIGRATED`` is the number of events of the store. ``UPGRADES`` is the number of upgrades while clients call.
"""

import asyncio
import re
import socket
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from chaos.parameters import env_int
from harness.held_sockets import SocketHoldingReceiver
from harness.load import START_NUMBER, LoadGenerator, LoadReport, a_load_config, wait_until_delivered
from harness.older_store import OLD_VERSION, make_older_store, schema_version
from harness.running_service import Receiver, Sink, a_config, a_sink
from harness.soak_report import RecordCounts

from receiver.store.sqlite.migrate import known_migrations
from receiver.store.sqlite.upgrade_backup import upgrade_backups

MIGRATED = env_int("MIGRATED", 20_000)
UPGRADES = env_int("UPGRADES", 1)
OLD_EVENTS = 2000
NEWEST = known_migrations()[-1].version
OPERATIONS = (Path(__file__).parents[2] / "receiver" / "docs" / "operations.md").read_text(encoding="utf-8")


def commands_back(backup: Path) -> list[list[str]]:
    """Return the arguments of the manual's own commands that lead back, with *backup* instead of its example."""
    block: str
    (block,) = re.findall(r"To go back to it:\n\n```console\n(.*?)```", OPERATIONS, re.DOTALL)
    lines = [line.removeprefix("# ").partition("#")[0].split() for line in block.splitlines()]
    ours = [words[1:] for words in lines if words[0] == "kling-receiver"]
    return [[str(backup) if ".schema-0004-" in word else word for word in words] for words in ours]


@pytest.mark.soak("a large store migrated", minutes=5)
@pytest.mark.timeout(120 + MIGRATED // 1000)
async def test_a_start_migrates_an_older_store_and_the_manual_leads_back(
    tmp_path: Path, record_counts: RecordCounts
) -> None:
    path = tmp_path / "var" / "receiver.db"
    await asyncio.to_thread(make_older_store, path, events=MIGRATED)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as received:
        received.bind(str(tmp_path / "notify"))
        received.setblocking(False)
        bodies: list[bytes] = []
        asyncio.get_running_loop().add_reader(
            received, lambda: bodies.append(received.recv(4096))
        )  # the queue is short
        receiver = Receiver(
            tmp_path, a_config("http://127.0.0.1:9"), environ={"NOTIFY_SOCKET": str(tmp_path / "notify")}
        )
        try:
            began = asyncio.get_running_loop().time()
            await receiver.start(seconds=60 + MIGRATED / 1000)
            took = asyncio.get_running_loop().time() - began
            assert await receiver.stop() == 0
        finally:
            if receiver.process is not None and receiver.process.poll() is None:
                receiver.kill()
            asyncio.get_running_loop().remove_reader(received)

        (backup,) = upgrade_backups(path)
        record_counts(events=MIGRATED, bytes=path.stat().st_size, seconds=round(took, 1))
        assert schema_version(path) == NEWEST
        assert [each["event"] for each in receiver.log_entries("store.backed_up")] == ["store.backed_up"]
        steps = [each["step"] for each in receiver.log_entries("store.migrating")]
        assert len(steps) == len([step for step in known_migrations() if step.version > OLD_VERSION])
        before_ready = bodies[: bodies.index(b"READY=1")]
        assert before_ready[0] == b"EXTEND_TIMEOUT_USEC=60000000"
        assert b"STATUS=The store: migrating" in b"".join(before_ready)
        assert len([each for each in bodies if each.startswith(b"EXTEND")]) >= took // 10

        for command in commands_back(backup):
            done = await receiver.run_cli_async(*command)
            assert done.returncode == 0, done.stderr
        assert schema_version(path) == OLD_VERSION
        assert receiver.rows("SELECT count(*) FROM events") == [(MIGRATED,)]
        assert receiver.rows("SELECT count(*) FROM pushes WHERE body IS NOT NULL") == [(MIGRATED,)]
        assert (await receiver.run_cli_async("db", "check")).returncode == 0


@pytest.mark.soak("upgraded under load, sockets held", minutes=25)
@pytest.mark.timeout(120 + 60 * UPGRADES)
async def test_an_upgrade_with_held_sockets_refuses_no_callback(tmp_path: Path, record_counts: RecordCounts) -> None:
    total = {"acknowledged": 0, "refused": 0, "cut_off_unanswered": 0, "lost": 0, "undelivered": 0, "sent_twice": 0}
    for number in range(UPGRADES):
        folder = tmp_path / str(number)
        folder.mkdir()
        async with a_sink() as sink:
            load, report = await upgrade_under_load(folder, sink)
        total["acknowledged"] += report.acknowledged
        total["refused"] += load.refused_connections + load.statuses.total() - load.statuses[200] - load.statuses[201]
        total["cut_off_unanswered"] += load.failed_requests
        total["lost"] += report.lost
        total["undelivered"] += report.undelivered + report.unknown
        total["sent_twice"] += report.duplicates_within_run + report.redeliveries.total()
        record_counts(upgrades=number + 1, **total)

    assert total.pop("acknowledged") >= 200 * UPGRADES
    assert set(total.values()) == {0}


async def upgrade_under_load(folder: Path, sink: Sink) -> tuple[LoadGenerator, LoadReport]:
    """Let clients call from before the start that migrates the store, and through one more restart."""
    store = folder / "var" / "receiver.db"
    await asyncio.to_thread(make_older_store, store, events=OLD_EVENTS)
    (folder / "var" / "admin-token").write_text("a-token-from-before-the-upgrade\n")
    (folder / "var" / "admin-token").chmod(0o600)
    receiver = SocketHoldingReceiver(folder, a_load_config(sink), environ={START_NUMBER: "0"})
    load, stop = LoadGenerator(receiver, keep_alive=False), asyncio.Event()
    calling = asyncio.create_task(load.run(stop))
    try:
        await receiver.start()
        await load.wait_for_acknowledged(100)
        assert await receiver.stop() == 0
        receiver.environ[START_NUMBER] = "1"
        await receiver.start()
        await load.wait_for_acknowledged(100)
        stop.set()
        await calling
        await wait_until_delivered(receiver)
        assert await receiver.stop() == 0
    finally:
        stop.set()
        if receiver.process is not None and receiver.process.poll() is None:
            receiver.kill()
        receiver.close_sockets()
        await asyncio.gather(calling, return_exceptions=True)
    assert schema_version(store) == NEWEST
    with closing(sqlite3.connect(store)) as connection, connection:
        connection.execute("DELETE FROM events WHERE id LIKE 'evt_00000%'")  # the report counts those of the load
    return load, LoadReport.from_run(load, sink)
