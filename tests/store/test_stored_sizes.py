"""What is stored once instead of twice, and the upgrade of a store that has it twice."""

import sqlite3
from contextlib import closing
from pathlib import Path

from harness.factories import a_push, a_task, an_event
from harness.packed import add_unpack
from store.conftest import decide_always

from receiver.domain.model import PushOutcome, Source
from receiver.store.interfaces import ById, Change
from receiver.store.sqlite.migrate import known_migrations, upgrade
from receiver.store.sqlite.store import SqliteStore


async def test_the_body_of_a_callback_is_stored_once_and_read_from_its_event(path: Path) -> None:
    callback = a_push(outcome=PushOutcome.APPLIED)
    answer = a_push("psh_2", source=Source.POLL, body=b'{"data":{}}', outcome=PushOutcome.APPLIED)
    first = an_event(push_id=callback.id, body=callback.body)
    second = an_event("evt_2", type="task.processing", push_id=answer.id, body=b"{}")
    waiting = a_push("psh_3", outcome=PushOutcome.PENDING)
    third = an_event("evt_3", type="task.processing", push_id=waiting.id, body=waiting.body)

    store = await SqliteStore.open(path)
    try:
        await store.tasks.add(a_task(), b"")
        await store.tasks.apply(ById(id="tsk_1"), decide_always(Change(push=callback, events=[first])))
        await store.tasks.apply(ById(id="tsk_1"), decide_always(Change(push=answer, events=[second])))
        await store.tasks.apply(ById(id="tsk_1"), decide_always(Change(push=waiting, events=[third])))
        read = [push.body for push in await store.catalog.pushes("tsk_1")]
    finally:
        await store.aclose()

    assert read == [callback.body, answer.body, waiting.body]
    with closing(sqlite3.connect(path)) as raw:
        add_unpack(raw)
        assert raw.execute("SELECT UNPACK(body) FROM pushes ORDER BY id").fetchall() == [
            (None,),
            (answer.body,),
            (waiting.body,),
        ]


def test_an_upgrade_keeps_the_pushes_and_attempts_of_an_older_version(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path, isolation_level=None)) as raw:
        raw.row_factory = sqlite3.Row
        raw.execute("PRAGMA foreign_keys = ON")
        upgrade(raw, [each for each in known_migrations() if each.version < 5])
        raw.execute(
            "INSERT INTO tasks (id, origin, state, created_at, updated_at, tags, message, pack, weight, priority,"
            " fair_share, attempts, poll_count, empty_result_count, redundant_push_count)"
            " VALUES ('tsk_1', 'api', 'succeed', 0, 0, '{}', '', '', 1, 0, '', 0, 0, 0, 0)"
        )
        raw.execute(
            "INSERT INTO pushes VALUES ('psh_1', 'tsk_1', 'callback', '[]', x'7b7d', zeroblob(32), 1, 'applied')"
        )
        raw.execute(
            "INSERT INTO events VALUES (1, 'evt_1', 'tsk_1', 'psh_1', 'x', x'', x'7b', 'none', 0, '[]', NULL, NULL)"
        )
        raw.execute("INSERT INTO deliveries VALUES ('dlv_1', 'evt_1', 'r', 'dead', 0, 0, 1, 0, 0, NULL, NULL, 1)")
        raw.execute("INSERT INTO attempts VALUES ('dlv_1', 1, 0, 5, 'failed', 500, 'why', x'00')")
        before = _pushes_and_attempts(raw)

        assert upgrade(raw, known_migrations())[0] == "0005_smaller_rows"

        assert _pushes_and_attempts(raw) == before
        assert raw.execute("PRAGMA foreign_key_check").fetchall() == []


def _pushes_and_attempts(connection: sqlite3.Connection) -> list[list[tuple[object, ...]]]:
    statements = ("SELECT * FROM pushes", "SELECT * FROM attempts")
    return [list(map(tuple, connection.execute(statement))) for statement in statements]
