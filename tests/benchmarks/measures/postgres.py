"""Nodes on PostgreSQL beside one process on SQLite, and beside a queue in PostgreSQL that delivers the same."""

import statistics
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from benchmarks.cpu import settled_cpu_seconds
from benchmarks.measurement import Measurement, Scale, compare_rates, compare_times, single_value
from benchmarks.postgres import Contestant, Database, Procrastinate, a_server, nodes_on, server_pid
from benchmarks.processes import a_receiver, server_process
from benchmarks.workload import STATUSES, delivered_at_first_attempt, posts_to, temp_folder, wait_until_counted

_SQLITE, _PEER = "SQLite", "procrastinate"
_NODES = (1, 2, 3)

Figures = defaultdict[tuple[str, str], list[float]]
"""Each round's value, by what is measured and by contestant."""


def postgres(size: Scale) -> Iterator[Measurement]:
    """Callbacks stored while their route is held, then their deliveries: SQLite, and one to three nodes."""
    found: Figures = defaultdict(list)
    with ExitStack() as stack:
        path = stack.enter_context(temp_folder())
        sink = stack.enter_context(server_process("sink", folder=path)).port
        server = stack.enter_context(a_server(path))
        with a_receiver(path, sink) as receiver:
            sqlite = Contestant(name=_SQLITE, nodes=[receiver], delivered=delivered_at_first_attempt(path))
            _measure(sqlite, size, sink, path, found)
        for count in _NODES:  # the others do not run meanwhile, because idle nodes also use the server
            with Database.create(server) as database:
                empty = database.bytes()
                with nodes_on(database, server, sink, path, count=count) as contestant:
                    _measure(contestant, size, sink, path, found)
                if count == 1:
                    _measure_storage(database, empty, found)
        if size.peers:
            with Database.create(server, empty=True) as database:
                _measure_peer(Procrastinate(database, sink), size, server_pid(server), found)
    yield from _compare_with_sqlite(found)
    if size.peers:
        yield from _compare_with_peer(found)
    yield single_value("rows per event on PostgreSQL", found["rows", ""][0], "")
    as_written = f"{found['bytes as written', ''][0]:,.0f} as written, without any vacuum"
    yield single_value("bytes per event on PostgreSQL", found["bytes", ""][0], "B", detail=as_written)


def _measure(contestant: Contestant, size: Scale, sink: int, path: Path, found: Figures) -> None:
    """Post callbacks while the route is held, then release it and wait for the deliveries."""
    name, route, count = contestant.name, f"to-{sink}", size.deliveries
    for _ in range(size.rounds):
        posts = posts_to(contestant.callback_paths(count), statuses=STATUSES[-1:])
        contestant.change_route(route, "hold")
        delivered, before = contestant.delivered(), contestant.cpu()
        found["acknowledge", name].append(contestant.post(posts, path))
        between = contestant.cpu()
        began = time.perf_counter()
        contestant.change_route(route, "release")
        wait_until_counted(lambda: contestant.delivered() - delivered, count)  # noqa: B023 -- called before the next round
        found["deliver", name].append(count / (time.perf_counter() - began))
        for what, start, end in (("acknowledge", before, between), ("deliver", between, contestant.cpu())):
            for whose, first, last in zip(("nodes", "server"), start, end, strict=True):
                found[f"{what}, CPU of {whose}", name].append((last - first) / count * 1e6)


def _measure_storage(database: Database, empty: int, found: Figures) -> None:
    events = database.value("SELECT count(*) FROM events WHERE task_id IS NOT NULL")
    found["rows", ""].append(database.rows() / events)
    found["bytes as written", ""].append((database.bytes() - empty) / events)
    database.execute("VACUUM FULL")
    found["bytes", ""].append((database.bytes() - empty) / events)


def _measure_peer(peer: Procrastinate, size: Scale, server: int, found: Figures) -> None:
    for _ in range(size.rounds):
        peer.add(size.deliveries)
        before = settled_cpu_seconds(server)
        ran = peer.work(size.deliveries)
        found["deliver", _PEER].append(ran["rate"])
        found["deliver, CPU of nodes", _PEER].append(ran["cpu"])
        found["deliver, CPU of server", _PEER].append((settled_cpu_seconds(server) - before) / size.deliveries * 1e6)


def _names(found: Figures) -> list[str]:
    return [name for what, name in found if what == "acknowledge" and name != _SQLITE]


def _compare_with_sqlite(found: Figures) -> Iterator[Measurement]:
    for name in _names(found):
        for what in ("acknowledge", "deliver"):
            goal = 0.5 if what == "acknowledge" and name == _names(found)[0] else None
            yield compare_rates(f"{name}: {what} / {_SQLITE}", found[what, name], found[what, _SQLITE], goal=goal)
            own = f"{what}, CPU of nodes"
            server = statistics.median(found[f"{what}, CPU of server", name])
            yield compare_times(
                f"{name}: {what}, CPU / {_SQLITE}",
                found[own, name],
                found[own, _SQLITE],
                unit="us",
                detail=f"and {server:.0f} us of the server",
            )


def _compare_with_peer(found: Figures) -> Iterator[Measurement]:
    for name in _names(found):
        goal = 3 if name == _names(found)[0] else None
        yield compare_rates(f"{name}: deliver / {_PEER}", found["deliver", name], found["deliver", _PEER], goal=goal)
    ours, theirs = (
        [
            own + server
            for own, server in zip(
                found["deliver, CPU of nodes", name], found["deliver, CPU of server", name], strict=True
            )
        ]
        for name in (_names(found)[0], _PEER)
    )
    yield compare_times(f"deliver with the server, CPU / {_PEER}", ours, theirs, unit="us")
