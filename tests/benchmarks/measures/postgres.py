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
from benchmarks.workload import STATUSES, new_deliveries, posts_to, temp_folder, wait_until_counted

_NODES, _SQLITE, _PEER = "PostgreSQL", "SQLite", "procrastinate"

Figures = defaultdict[tuple[str, str], list[float]]
"""Each round's value, by what is measured and by contestant."""


def postgres(size: Scale) -> Iterator[Measurement]:
    """Callbacks stored while their route is held, then their deliveries: one to three nodes, each beside SQLite."""
    with ExitStack() as stack:
        path = stack.enter_context(temp_folder())
        sink = stack.enter_context(server_process("sink", folder=path)).port
        server = stack.enter_context(a_server(path))
        receiver = stack.enter_context(a_receiver(path, sink))
        sqlite = Contestant(name=_SQLITE, nodes=[receiver], delivered=new_deliveries(path))
        peer = None
        if size.peers:
            peer = Procrastinate(stack.enter_context(Database.create(server, empty=True)), sink)
        for count in (1, 2, 3):  # other nodes do not run meanwhile, because they use the server when they are idle too
            found: Figures = defaultdict(list)
            with Database.create(server) as database:
                empty = database.bytes()
                with nodes_on(database, server, sink, path, count=count) as contestant:
                    for _ in range(size.rounds):
                        for each in (sqlite, contestant):
                            _measure(each, size, sink, path, found)
                        if peer is not None:
                            _measure_peer(peer, size, server_pid(server), found)
                yield from _compare(f"{count} node{'s' if count > 1 else ''}", found, is_first=count == 1)
                if count == 1:
                    yield from _measure_storage(database, empty)


def _measure(contestant: Contestant, size: Scale, sink: int, path: Path, found: Figures) -> None:
    """Post callbacks while the route is held, then release it and wait for the deliveries."""
    name, route, count = contestant.name, f"to-{sink}", size.deliveries
    posts = posts_to(contestant.callback_paths(count), statuses=STATUSES[-1:])
    contestant.change_route(route, "hold")
    delivered, before = contestant.delivered(), contestant.cpu()
    found["acknowledge", name].append(contestant.post(posts, path))
    between = contestant.cpu()
    began = time.perf_counter()
    contestant.change_route(route, "release")
    wait_until_counted(lambda: contestant.delivered() - delivered, count)
    found["deliver", name].append(count / (time.perf_counter() - began))
    for what, start, end in (("acknowledge", before, between), ("deliver", between, contestant.cpu())):
        for whose, first, last in zip(("nodes", "server"), start, end, strict=True):
            found[f"{what}, CPU of {whose}", name].append((last - first) / count * 1e6)


def _measure_storage(database: Database, empty: int) -> Iterator[Measurement]:
    events = database.value("SELECT count(*) FROM events WHERE task_id IS NOT NULL")
    as_written = (database.bytes() - empty) / events
    database.execute("VACUUM FULL")
    detail = f"{as_written:,.0f} as written, before any vacuum; {database.rows() / events:.1f} rows"
    yield single_value("bytes in PostgreSQL per event", (database.bytes() - empty) / events, "B", detail=detail)


def _measure_peer(peer: Procrastinate, size: Scale, server: int, found: Figures) -> None:
    peer.add(size.deliveries)
    before = settled_cpu_seconds(server)
    ran = peer.work(size.deliveries)
    found["deliver", _PEER].append(ran["rate"])
    found["deliver, CPU of nodes", _PEER].append(ran["cpu"])
    found["deliver, CPU of server", _PEER].append((settled_cpu_seconds(server) - before) / size.deliveries * 1e6)


def _compare(nodes: str, found: Figures, *, is_first: bool) -> Iterator[Measurement]:
    for what in ("acknowledge", "deliver"):
        target = 0.5 if is_first and what == "acknowledge" else None
        name, own = f"{nodes}: {what}, rate / {_SQLITE}", f"{what}, CPU of nodes"
        yield compare_rates(name, found[what, _NODES], found[what, _SQLITE], target=target)
        server = statistics.median(found[f"{what}, CPU of server", _NODES])
        name, detail = f"{nodes}: {what}, CPU / {_SQLITE}", f"PostgreSQL {server:.0f} us"
        yield compare_times(name, found[own, _NODES], found[own, _SQLITE], unit="us", detail=detail)
    if found["deliver", _PEER]:
        target = 3 if is_first else None
        yield compare_rates(
            f"{nodes}: deliver, rate / {_PEER}", found["deliver", _NODES], found["deliver", _PEER], target=target
        )
        ours, theirs = _with_server(found, _NODES), _with_server(found, _PEER)
        yield compare_times(f"{nodes}: deliver, all CPU / {_PEER}", ours, theirs, unit="us")


def _with_server(found: Figures, name: str) -> list[float]:
    """Return the CPU of deliveries, of the processes and the server together."""
    both = zip(found["deliver, CPU of nodes", name], found["deliver, CPU of server", name], strict=True)
    return [own + server for own, server in both]
