"""The JSON of events and pushes is stored compressed and read as it was written."""

import json
import os
import sqlite3
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from benchmarks.workload import CALLBACK
from harness.event_corpus import EventCorpus
from harness.factories import a_push, a_task, an_event
from store.conftest import decide_always

from receiver.domain.model import PushOutcome, Source
from receiver.store.interfaces import ById, Change
from receiver.store.packing import pack, pack_event, unpack, unpack_event
from receiver.store.sqlite.store import SqliteStore

BODY = CALLBACK.format(id="867283741700000001", status="succeed").encode()
PACKED = bytes.fromhex(
    "03600d001d02000342059d2754382a944853ed31f6e3357e1be7b8ae9fde1f12fc2306411ae91d82a5d273ec630d15d01bb1"
    "85d03e71ad14780c4662c284ac4b3a28f8767c485c38d31a"
)
PACKED_WITH_ZLIB = bytes.fromhex(
    "0143719d99b99185b1b989a1b901041852e65c0b534b03430b33435303137497a34851ec89e4943cbdd40a60a2cf49d54bce"
    "cfd54f2a36d22f2dc8c94f4cd1ad04c6ab6e7149695e897e7e69494169493ca62ff50a80f90d145700"
)
ENVELOPE = b'{"type":"task.succeed","timestamp":"2026-11-22T10:00:00.000Z","data":{"event_id":"evt_1"}}'
PACKED_PAIR = bytes.fromhex(
    "04005a606700c50200c342079d2754382a944853ed31f6e3357e1be7b8ae9fde6f03efee39e8f0230317fc7d06411a693482"
    "a5d213f26375165012e221a56de258a978ac330920458a40a29df9763c3e0a5c5fb359e5ad8f2b7e14e8b2391ccf1b"
)
PAIR_PACKED_WITH_ZLIB = bytes.fromhex(
    "02005a23321d99e91a1aea1a1985181a581980909e81814114eec465a884e66f3373230b6373134373a03e1030a42c202c4c"
    "2d0d0c2dcc0c4d0d4cd0c304458ae2e0494ec9d34bad0066a79c54bde4fc5cfda46223fdd2829cfcc414dd4a608ad12d2e29"
    "cd2bd1cf2f2d29282d89b7c0f0a55e01302783520100"
)
TEXTS = [
    b"",
    b"{}",
    b"\x01",
    b"\x01{}",
    b"\x02{}",
    b"\x03{}",
    b"\x04{}",
    b"\x01" * 70_000,
    '{"prompt": "žluťoučký kůň 🐎"}'.encode(),
    b"\xef\xbb\xbf {}",
    BODY,
    os.urandom(300),
    b'{"a":"' + b"x" * 70_000 + b'"}',
]


def _size(pairs: Iterable[tuple[bytes, bytes]]) -> int:
    return sum(len(envelope) + len(body) for envelope, body in pairs)


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_a_text_is_read_as_it_was_written(text: bytes) -> None:
    assert unpack(pack(text)) == text


def test_a_body_takes_less_than_half_of_its_size() -> None:
    assert len(pack(BODY)) < len(BODY) / 2


def test_a_text_is_never_stored_larger() -> None:
    noise = b"{" + os.urandom(300)

    assert pack(noise) == noise


def test_the_dictionary_is_part_of_the_format() -> None:
    assert unpack(PACKED) == BODY
    assert unpack_event(b"", PACKED_PAIR) == (ENVELOPE, BODY)


def test_what_an_earlier_version_packed_with_zlib_is_read() -> None:
    assert unpack(PACKED_WITH_ZLIB) == BODY
    assert unpack_event(b"", PAIR_PACKED_WITH_ZLIB) == (ENVELOPE, BODY)


def test_events_of_all_endpoints_take_a_quarter_of_their_size() -> None:
    pairs = list(EventCorpus(seed=2).pairs(300))

    stored = [pack_event(envelope, body) for envelope, body in pairs]

    assert [unpack_event(*each) for each in stored] == pairs
    assert _size(stored) < _size(pairs) / 4


def test_threads_pack_and_unpack_at_the_same_time() -> None:
    pairs = list(EventCorpus(seed=3).pairs(200))

    def pack_and_unpack(_: int) -> list[tuple[bytes, bytes]]:
        return [unpack_event(*pack_event(envelope, body)) for envelope, body in pairs]

    with ThreadPoolExecutor(8) as threads:
        assert all(read == pairs for read in threads.map(pack_and_unpack, range(16)))


@pytest.mark.parametrize("body", TEXTS, ids=range(len(TEXTS)))
@pytest.mark.parametrize("envelope", TEXTS, ids=range(len(TEXTS)))
def test_an_event_is_read_as_it_was_written(envelope: bytes, body: bytes) -> None:
    stored = pack_event(envelope, body)

    assert unpack_event(*stored) == (envelope, body)
    assert unpack(stored[1]) == body


def test_an_envelope_that_was_stored_later_replaces_that_of_the_pair() -> None:
    _, stored = pack_event(ENVELOPE, BODY)

    assert unpack_event(pack(b'{"data":{"assets":[]}}'), stored) == (b'{"data":{"assets":[]}}', BODY)


def test_an_envelope_takes_less_space_with_its_body_than_alone() -> None:
    envelope = ENVELOPE.replace(b"}}", b',"result":%b}}' % BODY)

    assert len(pack_event(envelope, BODY)[1]) < len(pack(envelope)) + len(pack(BODY)) / 2


async def test_events_and_pushes_are_read_as_they_were_written(path: Path) -> None:
    answer = a_push("psh_2", source=Source.POLL, body=BODY, outcome=PushOutcome.APPLIED)
    event = an_event(push_id=answer.id, body=BODY, envelope=json.dumps({"data": {"task": "x" * 100}}).encode())

    store = await SqliteStore.open(path)
    try:
        await store.tasks.add(a_task(), b"")
        await store.tasks.apply(ById(id="tsk_1"), decide_always(Change(push=answer, events=[event])))
        read = await store.catalog.event(event.id)
        [push] = await store.catalog.pushes("tsk_1")
    finally:
        await store.aclose()

    assert read is not None
    assert (read.envelope, read.body, push.body) == (event.envelope, BODY, BODY)
    with closing(sqlite3.connect(path)) as raw:
        [stored] = raw.execute("SELECT LENGTH(envelope), LENGTH(body) FROM events")
        assert stored[0] == 0
        assert stored[1] < (len(event.envelope) + len(BODY)) / 2


async def test_events_of_an_earlier_version_are_read_unpacked(path: Path) -> None:
    store = await SqliteStore.open(path)
    await store.tasks.add(a_task(), b"")
    await store.tasks.apply(ById(id="tsk_1"), decide_always(Change(events=[an_event(body=BODY)])))
    await store.aclose()
    with closing(sqlite3.connect(path, isolation_level=None)) as raw:
        raw.execute("UPDATE events SET body = ?", (BODY,))

    store = await SqliteStore.open(path)
    try:
        read = await store.catalog.event("evt_1")
    finally:
        await store.aclose()

    assert read is not None
    assert read.body == BODY
