"""The manual's script creates roles with which the service works, and with no more privileges than they need."""

import asyncio
import os
import secrets
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
from harness.factories import a_task
from harness.postgres import PostgresServer

from receiver.store.postgres.database import Address
from receiver.store.postgres.store import PostgresStore

SCRIPT = Path(__file__).parents[2] / "receiver" / "docs" / "postgresql" / "roles.sql"
PASSWORDS = {"KLING_PASSWORD": "of the 'owner'", "KLING_READER_PASSWORD": "of the reader"}


@pytest.fixture
async def names(postgres: PostgresServer) -> AsyncIterator[dict[str, str]]:
    """Names for the roles and the database of one test, which are removed after it."""
    suffix = secrets.token_hex(4)
    names = {"owner": f"owner_{suffix}", "reader": f"reader_{suffix}", "database": f"kling_{suffix}"}
    yield names
    await postgres.execute(f"DROP DATABASE IF EXISTS {names['database']} WITH (FORCE)")
    for role in ("owner", "reader"):
        await postgres.execute(f"DROP ROLE IF EXISTS {names[role]}")


async def run_script(
    postgres: PostgresServer, names: dict[str, str], passwords: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run the script as its first lines say."""
    sets = [f"--set={key}={value}" for key, value in names.items()]
    psql = str(postgres.programs / "psql")
    command = [psql, "--no-psqlrc", "--quiet", f"--file={SCRIPT}", *sets, postgres.url("postgres")]
    environment = {key: value for key, value in os.environ.items() if key not in PASSWORDS} | passwords

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    return await asyncio.to_thread(run)


def address(postgres: PostgresServer, names: dict[str, str], role: str) -> str:
    """Return the URL of the database for a role; only the loopback address requires its password."""
    return f"postgresql://{names[role]}@127.0.0.1:{postgres.port}/{names['database']}"


async def test_the_service_works_as_the_owner_and_the_reader_only_reads(
    postgres: PostgresServer, names: dict[str, str]
) -> None:
    ended = await run_script(postgres, names, PASSWORDS)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")

    owner = Address(url=address(postgres, names, "owner"), password=PASSWORDS["KLING_PASSWORD"])
    store = await PostgresStore.open(owner)
    await store.tasks.add(a_task(), b"{}")
    await store.aclose()

    reader = await asyncpg.connect(address(postgres, names, "reader"), password=PASSWORDS["KLING_READER_PASSWORD"])
    assert await reader.fetchval("SELECT count(*) FROM tasks") == 1
    for forbidden in (
        "DELETE FROM tasks",
        "CREATE TABLE mine (id int)",
        "CREATE SCHEMA mine",
        "CREATE TEMP TABLE mine ()",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await reader.execute(forbidden)
    await reader.close()
    roles = await _roles(postgres, names)
    assert roles == {names["owner"]: (False, False, False), names["reader"]: (False, False, False)}


async def _roles(postgres: PostgresServer, names: dict[str, str]) -> dict[str, tuple[bool, bool, bool]]:
    """Return for each role whether it is a superuser, and may create databases and roles."""
    connection = await asyncpg.connect(postgres.url("postgres"))
    query = "SELECT rolname, rolsuper, rolcreatedb, rolcreaterole FROM pg_roles WHERE rolname = ANY($1)"
    found = await connection.fetch(query, list(names.values()))
    await connection.close()
    return {name: (superuser, databases, roles) for name, superuser, databases, roles in found}


async def test_without_a_password_nothing_is_created(postgres: PostgresServer, names: dict[str, str]) -> None:
    ended = await run_script(postgres, names, {"KLING_READER_PASSWORD": "of the reader"})

    assert ended.returncode == 3
    assert "Set KLING_PASSWORD to the password of the role that the service uses." in ended.stderr
    assert await _roles(postgres, names) == {}
