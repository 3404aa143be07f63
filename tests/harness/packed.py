"""Reads the packed JSON of a store with SQL."""

import sqlite3

from receiver.store.packing import unpack, unpack_event


def add_unpack(connection: sqlite3.Connection) -> None:
    """Add the function ``UNPACK`` for bodies to a connection, and ``ENVELOPE`` for an event's two columns."""
    connection.create_function("UNPACK", 1, lambda stored: None if stored is None else unpack(stored))
    connection.create_function("ENVELOPE", 2, lambda envelope, body: unpack_event(envelope, body)[0])
