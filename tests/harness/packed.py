"""Reads the packed JSON of a store with SQL."""

import sqlite3

from receiver.store.packing import unpack


def add_unpack(connection: sqlite3.Connection) -> None:
    """Add the function ``UNPACK`` for bodies and envelopes to a connection."""
    connection.create_function("UNPACK", 1, lambda stored: None if stored is None else unpack(stored))
