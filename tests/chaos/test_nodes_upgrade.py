"""A rolling upgrade: the first new node migrates the schema while older nodes work, and they go on."""

from pathlib import Path

import asyncpg
from chaos.nodes_under_load import under_load

from receiver.store.postgres.migrate import Migration, known_migrations, upgrade

NEXT_RELEASE = Migration(
    version=9001,
    name="next_release",
    sql="""
ALTER TABLE tasks ADD COLUMN next_feature TEXT;
ALTER TABLE events ADD COLUMN next_feature BIGINT NOT NULL DEFAULT 0;
ALTER TABLE deliveries ADD COLUMN next_feature TEXT;
ALTER TABLE pushes ADD COLUMN next_feature TEXT;
ALTER TABLE nodes ADD COLUMN next_feature TEXT;
CREATE TABLE next_things (id TEXT PRIMARY KEY, task_id TEXT REFERENCES tasks (id) ON DELETE CASCADE);
CREATE INDEX next_index ON deliveries (next_feature);
""",
)
"""What a release may change: it adds columns, tables and indexes. Older nodes neither write nor need them."""


async def test_older_nodes_keep_running_after_a_migration_but_cannot_restart(tmp_path: Path, postgres_url: str) -> None:
    async with under_load(tmp_path, postgres_url) as chaos:
        connection = await asyncpg.connect(postgres_url)
        try:
            applied = await upgrade(connection, [*known_migrations(), NEXT_RELEASE])
        finally:
            await connection.close()
        await chaos.load.wait_for_acknowledged(100)
        report = await chaos.report()
        older = chaos.cluster.nodes[0]
        dead_nodes = chaos.cluster.dead_nodes()
        failures = [line for node in chaos.cluster.nodes for line in node.log_entries("request.failed")]
        older.kill()
        older.spawn()
        exit_code = await older.wait_for_exit(seconds=60)

    assert applied == [NEXT_RELEASE.title]
    assert (report.lost, report.undelivered, report.unknown) == (0, 0, 0)
    assert set(chaos.load.statuses) <= {200, 201, 503}
    assert failures == []
    assert dead_nodes == []
    assert exit_code != 0
    assert f"The store has schema version {NEXT_RELEASE.version}, newer than this program's" in older.log()
