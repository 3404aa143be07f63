"""Sessions of the console and their one-time links, on each store."""

import asyncio
from datetime import datetime

from harness.factories import at
from store.conftest import Opener, Store

from receiver.domain.console_sessions import ConsoleSession, Role, Visitor
from receiver.store.interfaces import RetentionTarget

ANNA = Visitor(role=Role.ADMIN, name="anna")
READER = Visitor(role=Role.READER, name="reader")


def key(number: int) -> bytes:
    return number.to_bytes(32)


def a_session(visitor: Visitor = ANNA, *, expires_at: datetime) -> ConsoleSession:
    return ConsoleSession(visitor=visitor, expires_at=expires_at)


async def test_a_session_is_found_until_it_expires(store: Store) -> None:
    session = a_session(expires_at=at(100))
    await store.sessions.start(key(1), session, most=9)

    assert await store.sessions.find(key(1), now=at(99)) == session
    assert await store.sessions.find(key(1), now=at(100)) is None
    assert await store.sessions.find(key(2), now=at(99)) is None


async def test_a_session_survives_a_reopened_store(opener: Opener) -> None:
    session = a_session(expires_at=at(100))
    async with opener() as first:
        await first.sessions.start(key(1), session, most=9)

    async with opener() as second:
        assert await second.sessions.find(key(1), now=at(1)) == session


async def test_renewing_never_shortens_a_session_and_revives_none(store: Store) -> None:
    await store.sessions.start(key(1), a_session(expires_at=at(100)), most=9)
    await store.sessions.renew(key(1), expires_at=at(200))
    await store.sessions.renew(key(1), expires_at=at(150))

    found = await store.sessions.find(key(1), now=at(1))
    assert found is not None
    assert found.expires_at == at(200)
    await store.sessions.end(key(1))
    await store.sessions.renew(key(1), expires_at=at(300))
    assert await store.sessions.find(key(1), now=at(1)) is None


async def test_a_notice_is_kept_until_it_is_replaced(store: Store) -> None:
    await store.sessions.start(key(1), a_session(expires_at=at(100)), most=9)
    await store.sessions.set_notice(key(1), "Submitted\x00.")

    found = await store.sessions.find(key(1), now=at(1))
    assert found is not None
    assert found.notice.startswith("Submitted")
    await store.sessions.set_notice(key(1), "")
    assert await store.sessions.find(key(1), now=at(1)) == a_session(expires_at=at(100))


async def test_new_sessions_end_the_oldest_ones_of_their_role(store: Store) -> None:
    for number in range(1, 5):
        await store.sessions.start(key(number), a_session(expires_at=at(100 + number)), most=2)
    await store.sessions.start(key(9), a_session(READER, expires_at=at(50)), most=2)

    kept = [number for number in range(1, 10) if await store.sessions.find(key(number), now=at(1))]
    assert kept == [3, 4, 9]


async def test_a_link_is_redeemed_once(store: Store) -> None:
    await store.sessions.add_link(key(1), ANNA, expires_at=at(60), most=9)

    found = await asyncio.gather(*(store.sessions.redeem_link(key(1), now=at(59)) for _ in range(8)))
    assert [visitor for visitor in found if visitor is not None] == [ANNA]


async def test_an_expired_link_is_not_redeemed(store: Store) -> None:
    await store.sessions.add_link(key(1), ANNA, expires_at=at(60), most=9)

    assert await store.sessions.redeem_link(key(1), now=at(60)) is None


async def test_new_links_replace_the_oldest_ones(store: Store) -> None:
    for number in range(1, 4):
        await store.sessions.add_link(key(number), ANNA, expires_at=at(60 + number), most=2)

    assert await store.sessions.redeem_link(key(1), now=at(1)) is None
    assert await store.sessions.redeem_link(key(2), now=at(1)) == ANNA


async def test_sessions_and_links_of_other_prefixes_are_ended(store: Store) -> None:
    ours, others = [prefix + bytes(30) for prefix in (b"\x00\xff", b"\x00\xfe")]
    for each in (ours, others):
        await store.sessions.start(each, a_session(expires_at=at(100)), most=9)
        await store.sessions.add_link(each, ANNA, expires_at=at(60), most=9)

    await store.sessions.end_others(b"\x00\xff")

    assert [await store.sessions.find(each, now=at(1)) is not None for each in (ours, others)] == [True, False]
    assert [await store.sessions.redeem_link(each, now=at(1)) for each in (ours, others)] == [ANNA, None]


async def test_the_housekeeping_deletes_what_has_expired(store: Store) -> None:
    for number, expires_at in ((1, at(100)), (2, at(200))):
        await store.sessions.start(key(number), a_session(expires_at=expires_at), most=9)
        await store.sessions.add_link(key(number), ANNA, expires_at=expires_at, most=9)

    swept = await store.retention.sweep(RetentionTarget.SESSIONS, before=at(0), now=at(100))

    assert swept.deleted == {"sessions": 2}
    assert await store.sessions.find(key(1), now=at(1)) is None
    assert await store.sessions.find(key(2), now=at(1)) is not None
    assert await store.sessions.redeem_link(key(2), now=at(1)) == ANNA
