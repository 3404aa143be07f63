"""What PostgreSQL's errors mean to the store. Each SQLSTATE is translated once, by its class."""

import asyncpg

from receiver.domain.errors import Conflict, ReceiverError, StoreBroken, StoreError, StoreUnavailable

# Another transaction was in the way: the same one succeeds when it is repeated.
_REPEATABLE = frozenset({"40001", "40P01"})
# The server or this session ended, is read-only after a failover, is short of something or waited for too long.
_UNAVAILABLE_CLASSES = frozenset({"08", "53", "57", "58"})
_UNAVAILABLE = frozenset({"25006", "25P03", "25P04", "26000", "55P03", "55006", *_REPEATABLE})
# Pages or indexes on the server's disk are damaged.
_BROKEN = frozenset({"XX001", "XX002"})
# The server refuses this account, this database or this statement until an administrator acts.
_REFUSED_CLASSES = frozenset({"28", "3D", "3F"})
_REFUSED = frozenset({"42501"})
_VIOLATION_CLASS = "23"


def translate_error(exc: Exception) -> ReceiverError | None:
    """Translate an error of the driver into ours; None if it is a programming error."""
    match exc:
        case ReceiverError():
            return exc
        case asyncpg.PostgresError():
            return _translate_state(exc)
        case TimeoutError():
            return StoreUnavailable("PostgreSQL does not answer in time.", remedy="Check the server and the network.")
        case OSError() | asyncpg.InterfaceError() | asyncpg.InternalClientError() if not isinstance(exc, ValueError):
            return StoreUnavailable(f"PostgreSQL cannot be reached: {exc}.", remedy="Check the server and the network.")
        case _:
            return None  # a ValueError is an argument that the driver cannot encode


def is_repeatable(exc: Exception) -> bool:
    """Return whether a transaction is to be repeated: another one, or a migration, was in its way."""
    if isinstance(exc, asyncpg.InvalidCachedStatementError):
        return True
    return isinstance(exc, asyncpg.PostgresError) and exc.sqlstate in _REPEATABLE


def _translate_state(exc: asyncpg.PostgresError) -> ReceiverError | None:
    state = exc.sqlstate or ""
    if state in _BROKEN:
        return StoreBroken(
            f"The store is broken: {exc}.", remedy="Check PostgreSQL's disk. If it has damage, restore a backup."
        )
    if state in _UNAVAILABLE or state[:2] in _UNAVAILABLE_CLASSES:
        return StoreUnavailable(f"PostgreSQL is temporarily unavailable: {exc}.")
    if state in _REFUSED or state[:2] in _REFUSED_CLASSES:
        return StoreError(
            f"PostgreSQL refuses access: {exc}.", remedy="Check [store] url and password, and the rights of the role."
        )
    return Conflict(f"The store refused the write: {exc}.") if state[:2] == _VIOLATION_CLASS else None
