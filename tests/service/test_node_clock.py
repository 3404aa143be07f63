"""Nodes whose clocks are wrong."""

import contextlib
from datetime import timedelta

import pytest

from receiver.domain.clock import AdjustedClock, Ids
from receiver.service.nodes.node import Node
from receiver.settings import Settings
from receiver.store.postgres.database import Address
from receiver.store.postgres.store import PostgresStore

MINUTES = timedelta(minutes=5)
SECONDS = timedelta(seconds=3)


@pytest.mark.parametrize("error", [MINUTES, -MINUTES], ids=["ahead", "behind"])
async def test_a_node_adopts_the_clock_of_the_database_when_it_joins(postgres_url: str, error: timedelta) -> None:
    clock = AdjustedClock()
    clock.offset = error
    store = await PostgresStore.open(Address(url=postgres_url))

    async with contextlib.aclosing(store):
        node = await Node.join(store, Settings(), clock=clock, ids=Ids(clock))
        listed = await node.all_nodes()

    assert abs(clock.offset) < SECONDS
    assert [each.state for each in listed] == ["live"]
