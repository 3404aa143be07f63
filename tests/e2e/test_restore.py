"""A backup made under load is restored as the manual says, after a kill that left a write-ahead log."""

import asyncio
import re
from contextlib import closing
from pathlib import Path
from sqlite3 import connect

from harness.load import START_NUMBER, a_load_config, generate_load, wait_until_delivered
from harness.raw_http import http_request
from harness.running_service import a_config, a_push_body, a_receiver, a_sink, create_callback_url

OPERATIONS = (Path(__file__).parents[2] / "receiver" / "docs" / "operations.md").read_text(encoding="utf-8")


def steps(backup: Path) -> list[str]:
    """Return the arguments of the manual's command for a restore, with *backup* instead of its example."""
    block: str
    (block,) = re.findall(r"To restore a backup, stop the service.*?```console\n(.*?)```", OPERATIONS, re.DOTALL)
    (command,) = block.splitlines()
    return [str(backup) if word == "/backups/monday.db" else word for word in command.split()[2:]]


async def test_a_backup_is_restored_as_the_manual_says(tmp_path: Path) -> None:
    store, copy, gate = tmp_path / "var" / "receiver.db", tmp_path / "monday.db", asyncio.Event()

    async def answer() -> int:
        await gate.wait()
        return 204

    async with a_sink() as sink, a_receiver(tmp_path, a_load_config(sink), environ={START_NUMBER: "0"}) as receiver:
        sink.answer = answer
        async with receiver.client() as client:
            _, url = await create_callback_url(client)
        async with generate_load(receiver) as load:
            await load.wait_for_acknowledged(60)
            before = set(load.acknowledged)
            made = await receiver.run_cli_async("db", "backup", str(copy))
            await load.wait_for_acknowledged(60)
            receiver.kill()
        assert made.returncode == 0, made.stderr
        assert store.with_name("receiver.db-wal").stat().st_size > 0

        restored = await receiver.run_cli_async(*steps(copy))
        assert restored.returncode == 0, restored.stderr
        gate.set()
        await receiver.start()

        kept = set(receiver.rows("SELECT task_id, UNPACK(body) FROM whole_pushes WHERE source = 'callback'"))
        assert before <= kept
        assert load.acknowledged - kept, "the old log was played into the copy"
        assert (await receiver.run_cli_async("db", "check")).returncode == 0
        assert (await http_request("POST", url, a_push_body("succeed"))).status == 200
        events = receiver.rows("SELECT id FROM events")
        await wait_until_delivered(receiver)
        assert {id_ for (id_,) in events} <= sink.received.keys()
        assert await receiver.stop() == 0


async def test_an_emptied_store_is_refused(tmp_path: Path) -> None:
    store = tmp_path / "var" / "receiver.db"
    log = store.with_name("receiver.db-wal")
    config = a_config("http://127.0.0.1:9", more='[callbacks]\nverify = "never"\n')
    async with a_receiver(tmp_path, config) as receiver:
        async with receiver.client() as client:
            _, url = await create_callback_url(client)
        assert (await http_request("POST", url, a_push_body("succeed"))).status == 200
        receiver.kill()
        whole, before = store.read_bytes(), log.read_bytes()
        store.write_bytes(b"")

        receiver.spawn()
        code = await receiver.wait_for_exit()
        done = [
            await receiver.run_cli_async("db", *rest)
            for rest in (["check"], ["backup", "b.db"], ["migrate"], ["stats"])
        ]

        assert (code, [each.returncode for each in done]) == (1, [1, 1, 1, 1])
        for output in (receiver.log().splitlines()[-1], *(each.stdout + each.stderr for each in done)):
            assert re.search(
                "is empty, but its write-ahead log .* contains acknowledged data.* restore a backup", output
            )
        assert (store.read_bytes(), log.read_bytes()) == (b"", before)
        assert not (tmp_path / "b.db").exists()
        store.write_bytes(whole)
        await receiver.start()
        assert receiver.rows("SELECT count(*) FROM pushes") == [(1,)]
        assert (await receiver.run_cli_async("db", "check")).returncode == 0
        assert await receiver.stop() == 0


async def test_a_newer_store_is_refused_and_unchanged(tmp_path: Path) -> None:
    store = tmp_path / "var" / "receiver.db"
    async with a_receiver(tmp_path, a_config("http://127.0.0.1:9")) as receiver:
        assert await receiver.stop() == 0
        with closing(connect(store, isolation_level=None)) as connection:
            connection.execute("INSERT INTO migrations VALUES (9999, 'from_the_future', 'x', 0)")
        before = store.read_bytes()

        receiver.spawn()
        code = await receiver.wait_for_exit()
        migrated = await receiver.run_cli_async("db", "migrate")
        checked = await receiver.run_cli_async("db", "check")

        sentence = r"The store has schema version 9999, newer than this program's \d+\. Install the version that"
        for output in (receiver.log().splitlines()[-1], migrated.stderr, checked.stdout):
            assert re.search(sentence, output)
        assert (code, migrated.returncode, checked.returncode) == (1, 1, 1)
        assert store.read_bytes() == before
