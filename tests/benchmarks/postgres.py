"""What the measurements on PostgreSQL share: nodes on one database, and what the server itself uses."""

import asyncio
import json
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import uvloop
from benchmarks.cpu import settled_cpu_seconds
from benchmarks.peers import procrastinate_python
from benchmarks.processes import CONNECTIONS, Post, Receiver, a_receiver, run_load
from harness.postgres import PostgresServer, shared_server

_WORKER = Path(__file__).with_name("procrastinate_worker.py")
_MAX_WORK = 300.0
TABLES = ("tasks", "pushes", "events", "deliveries", "attempts")


@contextmanager
def a_server(folder: Path) -> Iterator[PostgresServer]:
    """Run a server with its data in *folder*, on the disk that all parties share."""
    folder.chmod(0o755)  # the server's account must reach its data
    os.environ["POSTGRES_TESTS_FOLDER"] = str(folder)
    try:
        with shared_server(folder) as server:
            yield server
    finally:
        del os.environ["POSTGRES_TESTS_FOLDER"]


def server_pid(server: PostgresServer) -> int:
    """Return the process whose children serve the connections."""
    return int((server.folder / "data/postmaster.pid").read_text().split()[0])


class Database:
    """One database, on a connection that stays open, because a new one costs the server as much as many events."""

    def __init__(self, server: PostgresServer, name: str) -> None:
        self.url = server.url(name)
        self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self._connection: Any = self._runner.run(asyncpg.connect(self.url))

    @classmethod
    @contextmanager
    def create(cls, server: PostgresServer, *, empty: bool = False) -> Iterator["Database"]:
        """Create a database with a store, or an *empty* one."""
        if empty:
            name = "peer"
            asyncio.run(server.execute(f"CREATE DATABASE {name}"))
        else:
            name = asyncio.run(server.create_database())
        database = cls(server, name)
        try:
            yield database
        finally:
            database.close()

    def value(self, query: str) -> int:
        """Return the one number that a query finds."""
        return int(self._runner.run(self._connection.fetchval(query)))

    def execute(self, statement: str) -> None:
        """Run a statement."""
        self._runner.run(self._connection.execute(statement))

    def close(self) -> None:
        """Close the connection."""
        self._runner.run(self._connection.close())
        self._runner.close()

    def delivered(self) -> int:
        """Count the deliveries that succeeded at the first attempt."""
        return self.value("SELECT count(*) FROM deliveries WHERE status = 'delivered' AND attempts = 1")

    def rows(self) -> int:
        """Count the rows of the tables that grow with events."""
        return sum(self.value(f"SELECT count(*) FROM {table}") for table in TABLES)  # noqa: S608 -- our own tables

    def bytes(self) -> int:
        """Measure the same tables with their indexes."""
        return sum(self.value(f"SELECT pg_total_relation_size('{table}')") for table in TABLES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """A store with its nodes: where to post, how to count, and the processes that are measured."""

    name: str
    nodes: Sequence[Receiver]
    delivered: Callable[[], int]
    server: int | None = None

    def callback_paths(self, count: int) -> Sequence[str]:
        """Create tasks; return the paths of their callback URLs, which every node accepts."""
        return uvloop.run(self.nodes[0].create_callback_urls(count))

    def change_route(self, name: str, what: str) -> None:
        """Hold or release a route."""
        uvloop.run(self.nodes[0].change_route(name, what))

    def post(self, posts: Sequence[Post], folder: Path) -> float:
        """Share callbacks among the nodes. Return the acknowledgements per second."""
        count = len(self.nodes)
        folders = [folder / f"load-{number}" for number in range(count)]
        for each in folders:
            each.mkdir(exist_ok=True)
        with ThreadPoolExecutor(count) as pool:
            runs = [
                pool.submit(run_load, node.public, posts[at::count], folders[at], connections=CONNECTIONS // count)
                for at, node in enumerate(self.nodes)
            ]
        loads = [run.result() for run in runs]
        return len(posts) / (max(load.ended_at for load in loads) - min(load.started_at for load in loads))

    def cpu(self) -> tuple[float, float]:
        """Return the CPU seconds of the nodes, and of the database server."""
        own = sum(settled_cpu_seconds(node.pid) for node in self.nodes)
        return own, 0.0 if self.server is None else settled_cpu_seconds(self.server)


@contextmanager
def nodes_on(
    database: Database, server: PostgresServer, sink: int, folder: Path, *, count: int
) -> Iterator[Contestant]:
    """Run *count* nodes on a database."""
    with ExitStack() as stack:
        nodes = []
        for number in range(1, count + 1):
            own = folder / f"nodes-{count}-{number}"
            own.mkdir()
            store = f'url = "{database.url}"\nnode = "node-{number}"'
            nodes.append(stack.enter_context(a_receiver(own, sink, store=store)))
        yield Contestant(name="PostgreSQL", nodes=nodes, delivered=database.delivered, server=server_pid(server))


class Procrastinate:
    """procrastinate on a database of its own. It is installed at the first use."""

    def __init__(self, database: Database, sink: int) -> None:
        self._database = database
        self._sink = sink
        self._run("prepare", 0)

    def add(self, count: int) -> None:
        """Add jobs to its queue."""
        self._run("defer", count)

    def work(self, count: int) -> Mapping[str, float]:
        """Run the jobs. Return their rate and the CPU time of its process for each."""
        found: Mapping[str, float] = json.loads(self._run("work", count))
        return found

    def _run(self, what: str, count: int) -> str:
        ran = subprocess.run(
            [procrastinate_python(), _WORKER, what, self._database.url, str(self._sink), str(count)],
            env={"PATH": os.environ["PATH"]},
            capture_output=True,
            text=True,
            check=False,
            timeout=_MAX_WORK,
        )
        if ran.returncode:
            raise RuntimeError(ran.stderr[-2000:])
        return ran.stdout
