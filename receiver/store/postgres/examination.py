"""What `kling-receiver doctor` reads from a store on PostgreSQL: whether it can be used, and its waiting work."""

import asyncio
from datetime import datetime, timedelta

from receiver.domain.clock import micros
from receiver.domain.errors import StoreUnavailable
from receiver.store import rows
from receiver.store.postgres import catalog, maintenance
from receiver.store.postgres.database import Address, Connection, connect
from receiver.store.postgres.errors import translate_error
from receiver.store.postgres.migrate import applied
from receiver.store.postgres.queries import fetch, fetch_row
from receiver.store.sqlite.examination import CALLBACK_ALERTS, WaitingWork


def find_faults(address: Address, *, time_limit: timedelta) -> list[str]:
    """Return why the store cannot be used, one sentence each. Runs its own event loop."""

    async def find() -> list[str]:
        async with asyncio.timeout(time_limit.total_seconds()):
            return await maintenance.check(address)

    try:
        return asyncio.run(find())
    except TimeoutError as exc:
        raise _too_slow(time_limit) from exc


def waiting_work(address: Address, *, dead_since: datetime, time_limit: timedelta) -> WaitingWork | None:
    """Return what waits in the store; None if there is no store yet. Raises StoreError. Runs its own event loop."""

    async def read() -> WaitingWork | None:
        async with asyncio.timeout(time_limit.total_seconds()):
            connection = await connect(address, timeout=time_limit.total_seconds())
            try:
                return await _read(connection, dead_since)
            finally:
                connection.terminate()

    try:
        return asyncio.run(read())
    except TimeoutError as exc:
        raise _too_slow(time_limit) from exc
    except Exception as exc:
        raise (translate_error(exc) or exc) from exc


async def _read(connection: Connection, dead_since: datetime) -> WaitingWork | None:
    if not await applied(connection):
        return None
    alert = await fetch_row(connection, "list_events", {"types": CALLBACK_ALERTS, "only_alerts": True, "limit": 1})
    dead = await fetch(connection, "count_dead_deliveries", {"since": micros(dead_since)})
    return WaitingWork(
        held=[state for state in (await catalog.route_states(connection)).values() if state.is_held],
        backlog=await catalog.backlog(connection),
        dead={row["route"]: row["dead"] for row in dead},
        callback_alert=None if alert is None else rows.event(alert),
    )


def _too_slow(time_limit: timedelta) -> StoreUnavailable:
    return StoreUnavailable(f"Reading the store takes longer than {time_limit.total_seconds():g} s.")
