"""Reads rows of a store on PostgreSQL with statements that are written for SQLite."""

import asyncio
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import asyncpg

from receiver.store.packing import unpack, unpack_event

_PACKED = re.compile(r"UNPACK\((\S+?)\)")
_UNPACKED = "unpacked"
_ENVELOPE = re.compile(r"ENVELOPE\((\S+?), (\S+?)\)")
_UNPACKED_ENVELOPE = "unpacked_envelope"


async def fetch_rows(
    connection: "asyncpg.Connection[asyncpg.Record]", statement: str, *values: object
) -> list[tuple[Any, ...]]:
    """Read rows with ``?`` for each value, ``UNPACK`` for the JSON of a push, and ``ENVELOPE`` for that of an event."""
    text = _PACKED.sub(rf"\1 AS {_UNPACKED}", statement)
    text = _ENVELOPE.sub(rf"ARRAY[\1, \2] AS {_UNPACKED_ENVELOPE}", text)
    for number in range(1, text.count("?") + 1):
        text = text.replace("?", f"${number}", 1)
    rows = await connection.fetch(text, *values)
    return [tuple(_unpacked(name, value) for name, value in row.items()) for row in rows]


def _unpacked(column: str, value: Any) -> Any:
    if column == _UNPACKED_ENVELOPE:
        return unpack_event(*value)[0]
    return unpack(value) if column == _UNPACKED else value


def read_rows(url: str, statement: str, *values: object) -> list[tuple[Any, ...]]:
    """Read rows from synchronous code, also while a loop runs."""

    async def read() -> list[tuple[Any, ...]]:
        connection = await asyncpg.connect(url)
        try:
            return await fetch_rows(connection, statement, *values)
        finally:
            await connection.close()

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, read()).result()
