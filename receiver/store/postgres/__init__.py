"""The store in a PostgreSQL database: the same interfaces and invariants as the SQLite store, for many nodes."""
