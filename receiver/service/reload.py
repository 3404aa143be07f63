"""Reads the configuration again while the service runs, and replaces the settings that can change.

The parts take a new settings value in ``apply``. Nothing is awaited between the first part and the last one, so no
request and no attempt sees a mixture. What has begun finishes with the settings that it began with.
A configuration with a fault changes nothing.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Protocol

import structlog
from msgspec.structs import replace

from receiver.domain.api_schema.config import ChangedSetting, ConfigChanges, RemovedRoute
from receiver.domain.clock import Clock
from receiver.domain.errors import ConfigurationError, ReceiverError
from receiver.domain.notifier import Notifiers
from receiver.kling.route_globs import unmatched_globs
from receiver.service.admin_token import admin_token
from receiver.service.stable_file import wait_until_stable
from receiver.service.systemd import SystemdNotifier
from receiver.settings import Changes, Loaded, RouteSettings, SettingChange, Settings, compare, load, merge_reloadable
from receiver.store.interfaces import RouteBacklog

log = structlog.get_logger()


class Configurable(Protocol):
    """A part of the service that takes new settings while it runs."""

    def apply(self, settings: Settings) -> None:
        """Use *settings* from now on. It must not fail: the other parts use them already."""
        ...


class Backlog(Protocol):
    """Counts pending deliveries."""

    async def backlog(self) -> Sequence[RouteBacklog]:
        """Return the pending deliveries of each route."""
        ...


class Reloader:
    """Reloads the configuration, one reload at a time. ``requested`` asks for one, such as SIGHUP."""

    def __init__(self, loaded: Loaded, *, requested: asyncio.Event, systemd: SystemdNotifier, clock: Clock) -> None:
        self._loaded = loaded
        self._running = loaded.settings
        self._requested = requested
        self._systemd = systemd
        self._clock = clock
        self._lock = asyncio.Lock()
        self._parts: Sequence[Configurable] = ()
        self._catalog: Backlog | None = None
        self._notifiers = Notifiers()

    def connect(self, parts: Sequence[Configurable], *, catalog: Backlog, notifiers: Notifiers) -> None:
        """Set the parts that take new settings, in this order. They were built from the settings that were loaded."""
        self._parts, self._catalog, self._notifiers = parts, catalog, notifiers

    def origins(self) -> Mapping[str, str]:
        """Return where each setting came from."""
        return self._loaded.origins

    def routes(self) -> Sequence[RouteSettings]:
        """Return the present routes."""
        return self._running.routes

    async def run(self, stop: asyncio.Event) -> None:
        """Reload on each request until *stop*. Requests during a reload lead to one more."""
        stopping = asyncio.create_task(stop.wait())
        while not stop.is_set():
            asked = asyncio.create_task(self._requested.wait())
            await asyncio.wait([stopping, asked], return_when=asyncio.FIRST_COMPLETED)
            asked.cancel()
            if self._requested.is_set() and not stop.is_set():
                self._requested.clear()
                await self._reload_or_log()

    async def _reload_or_log(self) -> None:
        try:
            await self.reload(actor="SIGHUP")
        except ReceiverError as exc:  # logged already
            self._systemd.status(f"Not reloaded, nothing was changed: {exc}")
        except Exception:  # a failed request must not end the service
            log.exception("configuration.not_reloaded")

    async def reload(self, *, actor: str) -> ConfigChanges:
        """Read the configuration, apply what can change, and return what changed and what did not.

        Raises ConfigurationError; nothing has changed then.
        """
        async with self._lock:
            self._systemd.reloading()
            try:
                return await self._reload(actor)
            except ReceiverError as exc:
                faults = exc.faults if isinstance(exc, ConfigurationError) else (str(exc),)
                log.error("configuration.rejected", faults=faults, by=actor, reason="Nothing was changed.")  # noqa: TRY400 -- the faults say it all
                raise
            finally:
                self._systemd.ready()

    async def preview(self) -> ConfigChanges:
        """Return what a reload would change. Raises ConfigurationError."""
        async with self._lock:
            loaded = await self._read()
            return await self._describe(loaded, compare(self._running, loaded.settings), applied=False)

    async def _reload(self, actor: str) -> ConfigChanges:
        loaded = await self._read()
        changes = compare(self._running, loaded.settings)
        settings = merge_reloadable(self._running, loaded.settings)
        await asyncio.to_thread(admin_token, settings)  # its file may be unreadable; later this must not fail
        answer = await self._describe(loaded, changes, applied=True)
        self._running, self._loaded = settings, replace(loaded, path=loaded.path or self._loaded.path)
        for part in self._parts:
            part.apply(settings)
        self._notifiers.notify_all()  # there may be a new route, or a free slot
        _log(answer, actor)
        self._systemd.status(_status(answer))
        return answer

    async def _read(self) -> Loaded:
        """Load the file that the service was started with, once it is completely written."""
        path = self._loaded.path
        if path is not None:
            await wait_until_stable(path, self._clock)
        return await asyncio.to_thread(load, path)

    async def _describe(self, loaded: Loaded, changes: Changes, *, applied: bool) -> ConfigChanges:
        backlog = () if self._catalog is None else await self._catalog.backlog()
        pending = {each.route: each.pending for each in backlog}
        return ConfigChanges(
            applied=applied,
            path=None if loaded.path is None else str(loaded.path),
            changed=[_changed(each) for each in changes.settings if not each.needs_restart],
            needs_restart=[_changed(each) for each in changes.settings if each.needs_restart],
            routes_added=changes.routes_added,
            routes_removed=[RemovedRoute(name=name, pending=pending.get(name, 0)) for name in changes.routes_removed],
            routes_changed=changes.routes_changed,
            warnings=[*loaded.warnings, *unmatched_globs(loaded)],
        )


def _changed(change: SettingChange) -> ChangedSetting:
    return ChangedSetting(key=change.key, before=change.before, after=change.after)


def _log(answer: ConfigChanges, actor: str) -> None:
    log.info(
        "configuration.reloaded",
        by=actor,
        changed=[each.key for each in answer.changed],
        needs_restart=[each.key for each in answer.needs_restart],
        routes_added=answer.routes_added,
        routes_removed={each.name: each.pending for each in answer.routes_removed},
    )
    for warning in answer.warnings:
        log.warning("configuration.warned", warning=warning)
    for route in answer.routes_removed:
        if route.pending:
            reason = "Its deliveries are kept. They continue when a route with this name is configured again."
            log.warning("route.removed", route=route.name, pending=route.pending, reason=reason)


def _status(answer: ConfigChanges) -> str:
    waiting = ", ".join(each.key for each in answer.needs_restart)
    return "Reloaded." + (f" These settings need a restart: {waiting}." if waiting else "")
