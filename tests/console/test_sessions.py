"""Sessions and links of the console: what ends them, and what does not."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest
from harness.clock import FakeClock

from receiver.domain.console_sessions import Role, Visitor
from receiver.domain.metrics import Metrics
from receiver.domain.secret import Secret
from receiver.store.sqlite.store import SqliteStore
from receiver.web.console.credentials import Credentials
from receiver.web.console.sessions import LoginLinks, Sessions

ANNA = Visitor(role=Role.ADMIN, name="anna")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    """A store on a disk without space."""
    async with aclosing(await SqliteStore.open(tmp_path / "receiver.db", free=lambda _: 0)) as opened:
        yield opened


def credentials(token: str = "one", read_token: str = "read", **named: str) -> Credentials:
    tokens = {name: Secret(value) for name, value in named.items()}
    return Credentials(token=Secret(token), read_token=Secret(read_token), named_tokens=tokens)


async def test_a_session_stays_valid_while_the_tokens_are_the_same(store: SqliteStore) -> None:
    secret = await Sessions(store.sessions, credentials(anna="two"), FakeClock()).start(ANNA)

    found = await Sessions(store.sessions, credentials(anna="two"), FakeClock()).find(secret)

    assert found is not None
    assert found.visitor == ANNA


@pytest.mark.parametrize(
    "changed",
    [
        credentials("other", anna="two"),
        credentials(read_token="other", anna="two"),
        credentials(anna="other"),
        credentials(bert="two"),
        credentials(),
    ],
    ids=["token", "read token", "named token", "name", "no named token"],
)
async def test_a_changed_token_ends_all_sessions_and_links(store: SqliteStore, changed: Credentials) -> None:
    before, clock = credentials(anna="two"), FakeClock()
    session = await Sessions(store.sessions, before, clock).start(ANNA)
    link, _ = await LoginLinks(store.sessions, before, clock).create(ANNA)

    assert await Sessions(store.sessions, changed, clock).find(session) is None
    assert await LoginLinks(store.sessions, changed, clock).redeem(link) is None


async def test_a_notice_is_shown_once_and_not_kept_whole_if_it_is_long(store: SqliteStore) -> None:
    sessions = Sessions(store.sessions, credentials(), FakeClock())
    secret = await sessions.start(ANNA)
    first = await sessions.find(secret)
    assert first is not None
    first.notice = "x" * 5000
    await sessions.save_notice(first)

    second = await sessions.find(secret)
    assert second is not None
    assert second.take_notice() == "x" * 1000
    await sessions.save_notice(second)
    third = await sessions.find(secret)
    assert third is not None
    assert third.notice == ""


async def test_guesses_cost_no_write(tmp_path: Path) -> None:
    metrics, clock = Metrics(), FakeClock()
    async with aclosing(await SqliteStore.open(tmp_path / "receiver.db", metrics=metrics)) as store:
        sessions, links = (
            Sessions(store.sessions, credentials(), clock),
            LoginLinks(store.sessions, credentials(), clock),
        )

        for guess in ("", "a-guess", "\udcff"):
            assert await links.redeem(guess) is None
            await sessions.end(guess)

    assert metrics.store_group_size.values == {}


def test_only_the_shared_token_takes_the_name_that_its_visitor_gives() -> None:
    tokens = credentials("one", console="two")

    given = [tokens.visitor(token, name="boss") for token in ("one", "two", "read")]

    assert [visitor.name for visitor in given if visitor is not None] == ["boss", "console", "reader"]
