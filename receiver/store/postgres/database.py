"""The connections to one PostgreSQL database: they replace themselves after every kind of failure.

No statement relies on the state of a session, so a connection may be a pooler's (PgBouncer in transaction mode).
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Concatenate, ParamSpec, Self, TypeAlias, TypeVar

import asyncpg
import structlog
from asyncpg import Record

from receiver.domain.errors import StoreBroken, StoreError, StoreUnavailable
from receiver.store.postgres.errors import translate_error

if TYPE_CHECKING:
    from asyncpg.pool import Pool, PoolConnectionProxy

P = ParamSpec("P")
R = TypeVar("R")
DriverConnection: TypeAlias = "asyncpg.Connection[Record]"
Connection: TypeAlias = "DriverConnection | PoolConnectionProxy[Record]"

OLDEST_VERSION = 16

CONNECT_TIMEOUT = 3.0
RETRY_FOR = 3.0
"""Seconds after the first failure in which a call is repeated. Later ones fail at once, until one succeeds."""
_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 0.5
_MAX_IDLE_SECONDS = 60.0

_SETTINGS = """
SELECT
    current_setting('server_version_num')::int / 10000 AS version,
    current_setting('synchronous_commit') AS synchronous_commit,
    current_setting('fsync') AS fsync,
    current_setting('server_encoding') AS encoding,
    pg_is_in_recovery() AS is_standby
"""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where the database is: a ``postgresql://`` URL without a password, and the password, which no output shows."""

    url: str
    password: str | None = None

    def __repr__(self) -> str:
        """Return the URL alone."""
        return f"Address({self.url!r})"


async def connect(
    address: Address,
    *,
    timeout: float,  # noqa: ASYNC109 -- of each later statement
    cached: int = 0,
    settings: Mapping[str, str] | None = None,
) -> DriverConnection:
    """Open one connection whose statements end after *timeout* seconds. It keeps *cached* of them prepared.

    *settings* are settings of the session. Raises StoreError.
    """
    try:
        connection = await _connect(address, timeout, cached, settings)
        try:
            await _require_safe_settings(connection)
        except BaseException:
            connection.terminate()
            raise
    except (ValueError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as exc:
        raise (translate_error(exc) or _invalid_address(exc)) from exc
    return connection


async def _connect(
    address: Address,
    timeout: float,  # noqa: ASYNC109 -- of each later statement
    cached: int,
    settings: Mapping[str, str] | None,
) -> DriverConnection:
    # The driver's own time limit covers the connect, but not the address look-up before it.
    async with asyncio.timeout(CONNECT_TIMEOUT):
        return await asyncpg.connect(
            address.url,
            password=address.password,
            timeout=CONNECT_TIMEOUT,
            command_timeout=timeout,
            statement_cache_size=cached,
            server_settings=None if settings is None else dict(settings),
        )


async def is_pooled(address: Address) -> bool:
    """Return whether a pooler is in between: the process that answers is not the one of the handshake.

    A pooler may give each statement another session, so none may stay prepared. Raises StoreError.
    """
    connection = await connect(address, timeout=CONNECT_TIMEOUT)
    try:
        return bool(await connection.fetchval("SELECT pg_backend_pid()") != connection.get_server_pid())
    except Exception as exc:
        raise (translate_error(exc) or exc) from exc
    finally:
        connection.terminate()


def _invalid_address(exc: Exception) -> StoreError:
    return StoreError(f"[store] url is not valid for PostgreSQL: {exc}.", remedy="Correct [store] url.")


async def _require_safe_settings(connection: Connection) -> None:
    """Refuse a server that would lose acknowledged data or cannot run the store's statements. Raises StoreError."""
    found = await connection.fetchrow(_SETTINGS)
    assert found is not None  # noqa: S101 -- a SELECT without FROM has one row
    if found["version"] < OLDEST_VERSION:
        raise StoreError(
            f"PostgreSQL {found['version']} is too old.", remedy=f"Use PostgreSQL {OLDEST_VERSION} or newer."
        )
    if found["synchronous_commit"] not in {"on", "remote_apply"}:
        raise StoreError(
            f"PostgreSQL may lose acknowledged data: synchronous_commit is {found['synchronous_commit']!r}.",
            remedy="Set it to 'on', for the server or with `ALTER ROLE ... SET synchronous_commit = on`.",
        )
    if found["fsync"] != "on":
        raise StoreError(
            "PostgreSQL may lose acknowledged data: fsync is off.", remedy="Set fsync = on in postgresql.conf."
        )
    if found["encoding"] != "UTF8":
        raise StoreError(
            f"The database has the encoding {found['encoding']}.", remedy="Create it with the encoding UTF8."
        )
    if found["is_standby"]:
        raise StoreUnavailable("The PostgreSQL server is a standby, which cannot write.", remedy="Use the primary.")


class Health:
    """Whether the store is broken. Once it is, every call raises the same error and nothing is acknowledged."""

    def __init__(self) -> None:
        self.broken = asyncio.Event()
        self._fault: StoreBroken | None = None

    def check(self) -> None:
        """Raise StoreBroken if the store is broken."""
        if self._fault is not None:
            raise StoreBroken(self._fault.message, remedy=self._fault.remedy)

    def classify(self, exc: Exception) -> Exception:
        """Translate an error of a connection. The first StoreBroken is stored as the fault."""
        translated = translate_error(exc)
        if isinstance(translated, StoreBroken) and self._fault is None:
            self._fault = translated
            log.error("store.damaged", reason=translated.message, remedy=translated.remedy)
            self.broken.set()
        return translated or exc


class Outage:
    """Since when calls fail, so that calls wait for a short outage and fail at once during a long one."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._pause = _FIRST_PAUSE

    def end(self) -> None:
        """Record that a call succeeded."""
        if self._since is not None:
            log.info("store.reconnected", seconds=round(asyncio.get_running_loop().time() - self._since, 1))
        self._since, self._pause = None, _FIRST_PAUSE

    async def wait(self, error: Exception) -> bool:
        """Wait before a failed call is repeated. Return False if it should not be repeated any more."""
        now = asyncio.get_running_loop().time()
        if self._since is None:
            self._since = now
            log.warning("store.unavailable", reason=str(error))
        if now - self._since > RETRY_FOR:
            return False
        await asyncio.sleep(self._pause)
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        return True


class Connections:
    """A small pool of connections for one purpose, and calls of functions on them until the store is closed."""

    def __init__(self, pool: "Pool[Record]", health: Health) -> None:
        self._pool = pool
        self._health = health
        self._outage = Outage()
        self._closed = False

    @classmethod
    async def open(
        cls,
        address: Address,
        health: Health,
        *,
        size: int,
        timeout: float,  # noqa: ASYNC109 -- of each later statement
        cached: int = 0,
        settings: Mapping[str, str] | None = None,
    ) -> Self:
        """Make a pool of up to *size* connections, as ``connect`` opens them."""

        async def connect_again(*_: object, **__: object) -> DriverConnection:
            return await connect(address, timeout=timeout, cached=cached, settings=settings)

        pool = asyncpg.create_pool(
            min_size=0,
            max_size=size,
            max_inactive_connection_lifetime=_MAX_IDLE_SECONDS,
            connect=connect_again,
            reset=_leave_as_it_is,
        )
        return cls(await pool, health)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Lend a connection. After an error that may have left something on it, it is replaced."""
        try:
            connection = await self._pool.acquire()
        except asyncpg.InterfaceError as exc:
            raise StoreUnavailable("The store is closed.") from exc
        try:
            yield connection
        except asyncpg.PostgresError:
            with suppress(asyncpg.InterfaceError):  # the pool has already taken back a lost one
                if connection.is_in_transaction():
                    connection.terminate()
            raise
        except BaseException:
            discard(connection)
            raise
        finally:
            await self._pool.release(connection)

    async def read(
        self, function: Callable[Concatenate[Connection, P], Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Return what *function* returns for a connection; repeat it after a short outage. Raises StoreUnavailable."""
        while True:
            self._health.check()
            if self._closed:
                raise StoreUnavailable("The store is closed.")
            try:
                async with self.connection() as connection:
                    result = await function(connection, *args, **kwargs)
            except Exception as exc:
                error = self._health.classify(exc)
                if not isinstance(error, StoreUnavailable) or not await self._outage.wait(error):
                    if error is exc:
                        raise
                    raise error from exc
            else:
                self._outage.end()
                return result

    def close(self) -> None:
        """Refuse further reads."""
        self._closed = True

    async def aclose(self) -> None:
        """Close the connections, within a time limit."""
        self._closed = True
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                await self._pool.close()
        except TimeoutError:
            self._pool.terminate()


def discard(connection: Connection) -> None:
    """Close a connection at once; the pool makes another one. The pool has already taken back a lost one."""
    with suppress(asyncpg.InterfaceError):
        connection.terminate()


async def _leave_as_it_is(_connection: object) -> None:
    """Run no statement when a connection returns to the pool: it has no state of its own."""


Reader: TypeAlias = Connections
"""Connections of which only ``read`` is used."""
