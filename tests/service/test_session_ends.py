"""Sessions of the console that a changed token has ended stay ended when the old token comes back."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest
from harness.clock import FakeClock
from harness.waiting import wait_until

from receiver.domain.console_sessions import Role, Visitor
from receiver.domain.notifier import Notifier
from receiver.domain.secret import Secret
from receiver.service.session_ends import SessionEnds
from receiver.settings import AdminSettings, Settings
from receiver.store.sqlite.store import SqliteStore
from receiver.web.console.credentials import Credentials
from receiver.web.console.sessions import LoginLinks, Sessions

ANNA = Visitor(role=Role.ADMIN, name="anna")


def settings(token: str) -> Settings:
    return Settings(admin=AdminSettings(token=Secret(token)))


def credentials(token: str) -> Credentials:
    return Credentials(token=Secret(token), read_token=None, named_tokens={})


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    async with aclosing(await SqliteStore.open(tmp_path / "receiver.db")) as opened:
        yield opened


@asynccontextmanager
async def running(store: SqliteStore, token: str, notifier: Notifier) -> AsyncIterator[SessionEnds]:
    """Run the part, as the service does from its start to its stop."""
    ends, stop = SessionEnds(store.sessions, settings(token), notifier=notifier, clock=FakeClock()), asyncio.Event()
    work = asyncio.create_task(ends.run(stop))
    try:
        yield ends
    finally:
        stop.set()
        notifier.notify()
        await work


async def start_session(store: SqliteStore, token: str) -> str:
    return await Sessions(store.sessions, credentials(token), FakeClock()).start(ANNA)


async def is_open(store: SqliteStore, token: str, secret: str) -> bool:
    return await Sessions(store.sessions, credentials(token), FakeClock()).find(secret) is not None


async def until_ended(store: SqliteStore, token: str, secret: str) -> None:
    """Return when the session would not be valid even with its old token."""

    async def is_ended() -> bool:
        return not await is_open(store, token, secret)

    await wait_until(is_ended)


async def test_a_reload_with_another_token_ends_sessions_and_links_for_good(store: SqliteStore) -> None:
    notifier = Notifier()
    secret = await start_session(store, "old")
    link, _ = await LoginLinks(store.sessions, credentials("old"), FakeClock()).create(ANNA)
    async with running(store, "old", notifier) as ends:
        ends.apply(settings("new"))
        notifier.notify()

        await until_ended(store, "old", secret)

        later = await start_session(store, "new")
    assert await LoginLinks(store.sessions, credentials("old"), FakeClock()).redeem(link) is None
    assert await is_open(store, "new", later)


async def test_a_start_with_another_token_ends_sessions_for_good(store: SqliteStore) -> None:
    secret = await start_session(store, "old")

    async with running(store, "new", Notifier()):
        await until_ended(store, "old", secret)


async def test_a_start_or_reload_with_the_same_tokens_ends_no_session(store: SqliteStore) -> None:
    notifier, other = Notifier(), await start_session(store, "other")
    secret = await start_session(store, "same")
    async with running(store, "same", notifier) as ends:
        await until_ended(store, "other", other)
        ends.apply(settings("same"))
        notifier.notify()

    assert await is_open(store, "same", secret)


async def test_sessions_end_also_if_the_old_token_is_back_before_they_were_deleted(store: SqliteStore) -> None:
    secret = await start_session(store, "old")
    async with running(store, "old", notifier := Notifier()) as ends:
        ends.apply(settings("new"))
        ends.apply(settings("old"))
        notifier.notify()

        await until_ended(store, "old", secret)
