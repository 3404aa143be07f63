"""Several nodes of the service on PostgreSQL and everything around them, for minutes full of faults.

It is the simulation of one process at a faster pace: nodes are killed, stopped for up to a minute and continued, and
cut off from the database, mostly in the middle of a transaction. Some lose the session by which others see them, so
that another node sends although they live. Their clocks are minutes apart.
"""

import asyncio
from collections import Counter
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import urlsplit

import pytest
from chaos import clients
from chaos.clients import TOKEN, Clients
from chaos.oracle import CLIENT, SECRET, Oracle
from chaos.simulated_database import DatabaseLoop, Rows
from chaos.simulated_kling import SimulatedKling, SimulatedTask
from chaos.simulated_network import SimulatedNetwork, repeat_randomly, running_detached, spawn_detached
from chaos.simulated_nodes import START_ERRORS, SimulatedCluster, SimulatedNode, node_clock
from chaos.simulated_operator import Operator
from chaos.simulation import ADDRESSES, ROUTE_EVENTS, Destination, handler_for
from chaos.virtual_time import VirtualClock

from receiver.service.nodes.duty_plan import LeaseTiming
from receiver.settings import Settings, load

SLOTS = {"image": 6, "video": 4}
CONFIG = """
[public]
url = "https://hooks.test"
[admin]
token = "@TOKEN@"
[store]
url = "@STORE@"
node = "@NODE@"
[kling]
base_url = "http://api.klingai.com"
api_key = "a key"
slots = { image = 6, video = 4 }
[callbacks]
verify = "@VERIFY@"
@SIGNING@
[[routes]]
name = "all"
on = ["*"]
unverified = true
retry = ["2s", "10s", "30s"]
webhook = { url = "http://all.test/", secret = "@SECRET@" }
[[routes]]
name = "ends"
on = ["succeed", "failed", "rejected", "expired"]
webhook = { url = "http://ends.test/", secret = "@SECRET@" }
retry = ["1s", "10s", "1m"]
give_up_after = "12h"
concurrency = 2
[[routes]]
name = "images"
endpoints = ["images/*"]
retry = ["2s", "10s", "30s"]
webhook = { url = "http://images.test/", secret = "@SECRET@", payload = "kling" }
concurrency = 3
"""
PACE = 40.0
"""How many times faster than in the simulation of one process tasks end and routes are released."""

CLOCKS_APART = timedelta(minutes=5)
FREEZE_SECONDS = (2.0, 10.0, 61.0)
_ENOUGH = 1_000_000
_STUCK_SECONDS = 60.0
_HOUR = 3600.0
_LOOK_SECONDS = 20.0
_MAX_LOOKS = 1000
_MAX_MESSAGES = 40
_MOST_SECONDS_WITHOUT_MESSAGE = 10.0

_REGRESSIONS = """
CREATE TABLE regressions (what TEXT);
CREATE FUNCTION rank(state TEXT) RETURNS INT LANGUAGE sql IMMUTABLE RETURN CASE state
    WHEN 'submitted' THEN 1 WHEN 'processing' THEN 2 WHEN 'rejected' THEN 3 WHEN 'expired' THEN 3
    WHEN 'succeed' THEN 4 WHEN 'failed' THEN 4 ELSE 0 END;
CREATE FUNCTION record_regression() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO regressions VALUES (OLD.id || ' moves back from ' || OLD.state || ' to ' || NEW.state);
    RETURN NULL;
END
$$;
CREATE TRIGGER regressions AFTER UPDATE OF state ON tasks
FOR EACH ROW WHEN (rank(NEW.state) < rank(OLD.state)) EXECUTE FUNCTION record_regression();
"""
_TAKEOVERS = """
CREATE TABLE takeovers (duty TEXT, at BIGINT);
CREATE FUNCTION record_takeover() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO takeovers VALUES (NEW.duty, micros_now());
    RETURN NULL;
END
$$;
CREATE TRIGGER takeovers AFTER UPDATE OF epoch ON leases
FOR EACH ROW WHEN (NEW.epoch > OLD.epoch) EXECUTE FUNCTION record_takeover();
"""
_LEASE = """
SELECT node, until - micros_now(), micros_now() - (SELECT MAX(at) FROM takeovers WHERE takeovers.duty = leases.duty)
FROM leases
WHERE duty = ?
"""
_END_SESSION = """
SELECT pg_terminate_backend(pid)
FROM nodes JOIN pg_locks ON ((classid::bigint << 32) | objid::bigint) = session_key(instance)
WHERE locktype = 'advisory' AND name = '{node}'
"""
_UNFINISHED = """
SELECT
    (SELECT COUNT(*) FROM tasks WHERE state IN ('queued', 'submitting', 'submitted', 'processing')) AS tasks,
    (SELECT COUNT(*) FROM pushes WHERE outcome = 'pending') AS pushes,
    (SELECT COUNT(*) FROM deliveries WHERE status = 'pending') AS deliveries,
    (SELECT COUNT(*) FROM batches WHERE closed_at IS NOT NULL AND finished_at IS NULL) AS batches,
    (SELECT COUNT(*) FROM replays WHERE state <> 'done') AS replays
"""


class NodesOracle(Oracle):
    """Also checks that only the holder of a duty acts, by the leases in the database."""

    def __init__(self, rows: Rows, truth: Mapping[str, SimulatedTask]) -> None:
        super().__init__(Path(), truth)
        self._rows = rows
        self._in_flight_of: dict[str, Counter[str]] = {}

    def rows(self, statement: str, *values: object) -> list[Any]:
        """Read committed rows."""
        return self._rows.read(statement, *values)

    def on_node_stopped(self, node: str) -> None:
        """Forget the attempts in flight of a node that was killed or stopped."""
        self._in_flight_of[node] = Counter()

    @contextmanager
    def watch_node_attempt(self, node: str, headers: Mapping[str, str]) -> Iterator[None]:
        """Watch an attempt of a node while it waits for its answer."""
        delivery = headers.get("kling-receiver-delivery")
        if delivery is None:
            yield
            return
        route = self.check_attempt(delivery)
        self.require_duty("delivering", node, f"{delivery} is sent")
        if any(in_flight[delivery] for in_flight in self._in_flight_of.values()):
            self.report(f"{delivery} is sent twice at once")
        in_flight = self._in_flight_of.setdefault(node, Counter())
        with self.counted(in_flight, delivery, route):
            yield

    def watch_request(self, node: str, method: str, url: str) -> None:
        """Check that a create is sent by the node that may."""
        if method == "POST" and urlsplit(url).hostname == "api.klingai.com":
            self.require_duty("kling", node, "a create is sent", overlap=LeaseTiming().overlap)

    def require_duty(self, duty: str, node: str, what: str, *, overlap: float = 0.0) -> None:
        """Report it if a node acts whose lease has ended.

        What it began before may come up to *overlap* seconds after another node took the duty, which expects it.
        """
        self.counts[f"actions under {duty}"] += 1
        [(holder, left, taken_ago)] = self.rows(_LEASE, duty)
        if holder == node and left > 0:
            return
        if holder not in (node, None) and taken_ago is not None and taken_ago <= overlap * 1_000_000:
            self.counts[f"late actions under {duty}"] += 1
            return
        self.report(f"{what} by {node} without the lease on {duty}, which {holder} took {taken_ago} us ago")


class NodesSimulation:
    """One complete run with some nodes. It has what ``violations`` looks at."""

    jumps = False

    def __init__(self, folder: Path, seed: int, rows: Rows, url: str, *, size: int, patch: pytest.MonkeyPatch) -> None:
        self.rng = Random(seed)
        self.verify = self.rng.choice(["terminal", "always"])
        loop = asyncio.get_running_loop()
        assert isinstance(loop, DatabaseLoop)
        self.loop = loop
        truth: dict[str, SimulatedTask] = {}
        self.rows = rows
        self.rows.execute(_REGRESSIONS)
        self.rows.execute(_TAKEOVERS)
        self.oracle = NodesOracle(rows, truth)
        self.network = loop.network = SimulatedNetwork(self._new_rng(), self.oracle.on_forbidden_dial)
        signs = self.rng.random() < 0.5
        self.nodes = [self._node(folder / f"node-{number}", url, signs=signs) for number in range(1, size + 1)]
        self.nodes[0].install(patch)
        patch.setattr(clients, "BLIND_SHARE", 0.0)  # a task that cannot be polled may need two days for its end
        self.cluster = SimulatedCluster(self.nodes, VirtualClock(loop), self._new_rng())
        self.clients = Clients(self._new_rng(), self.cluster, self.oracle, signs=signs, one_shots=True)
        self.kling = SimulatedKling(
            self._new_rng(), self.clients.push, truth, slots=_ENOUGH, pace=PACE, stuck_seconds=_STUCK_SECONDS
        )
        self.destinations = {name: Destination() for name in (*ROUTE_EVENTS, CLIENT)}
        self._add_peers()
        self.operator = Operator(self._new_rng(), self.clients, self.oracle, routes=list(ROUTE_EVENTS), pace=200)
        self._is_finished = False
        self._armed: dict[int, tuple[int, asyncio.Event]] = {}
        loop.on_traffic = self._on_traffic

    def _new_rng(self) -> Random:
        return Random(self.rng.random())

    def _node(self, folder: Path, url: str, *, signs: bool) -> SimulatedNode:
        folder.mkdir()
        settings = _settings(folder, url, verify=self.verify, signs=signs)
        name, oracle = settings.store.node, self.oracle
        offset = CLOCKS_APART * self.rng.uniform(-0.5, 0.5)
        return SimulatedNode(
            settings=settings,
            clock=node_clock(self.loop, offset),
            rng=self._new_rng(),
            resolve=self.network.resolve,
            watch_attempt=partial(oracle.watch_node_attempt, name),
            report=oracle.report,
            on_request=partial(oracle.watch_request, name),
            start_errors=START_ERRORS,
        )

    def _add_peers(self) -> None:
        self.kling_conditions = Destination().conditions
        self.network.add_peer("api.klingai.com", "10.77.0.1", self.kling.serve, self.kling_conditions)
        for (name, each), address in zip(self.destinations.items(), ADDRESSES, strict=True):
            serve = handler_for(self.oracle, name, each)
            self.network.add_peer(f"{name}.test", address, serve, each.conditions, is_untrusted=name == CLIENT)

    async def run(self, minutes: float, *, until_settled: bool = True, until: str | None = None) -> None:
        """Run with all faults for this long, then without faults until everything has finished, then stop.

        The faults end at once when a violation contains *until*.
        """
        found = self.oracle.wait_for(until)
        await asyncio.gather(*(node.start() for node in self.nodes))
        breaking = spawn_detached(self._break_nodes(self._new_rng()))
        async with running_detached(self._activities()):
            with suppress(TimeoutError):
                async with asyncio.timeout(minutes * 60):
                    await found.wait()
            self._is_finished = True
            await breaking
        if until_settled:
            await self._settle()
        await self._stop_nodes(self.nodes[:1])
        self.oracle.counts["virtual minutes"] = round(self.loop.time() / 60)

    def _activities(self) -> Iterator[Coroutine[Any, Any, None]]:
        yield self.kling_conditions.vary(self._new_rng(), mean_good_hours=0.05, mean_bad_hours=0.005)
        for each in self.destinations.values():
            yield each.conditions.vary(self._new_rng(), mean_good_hours=0.05, mean_bad_hours=0.005)
            yield self._vary_status(each, self._new_rng())
        for seconds, do in (
            (8, self.clients.submit_by_api),
            (12, self.clients.create_by_gateway),
            (12, partial(self.clients.create_callback_url, self.kling)),
            (15, partial(self.clients.forge_push, self.kling)),
            (90, self.clients.submit_burst),
            (90, self.operator.hold_route),
            (30, self.operator.retry_delivery),
            (60, self.operator.replay),
            (20, self.operator.cancel_task),
        ):
            yield repeat_randomly(self._new_rng(), seconds / _HOUR, do)

    @staticmethod
    async def _vary_status(destination: Destination, rng: Random) -> None:
        while True:
            await asyncio.sleep(rng.expovariate(1 / 60))
            destination.status = rng.choices([500, 503, 429, 410], [4, 2, 2, 1])[0]
            await asyncio.sleep(rng.choice([0.5, 5.0, 15.0]))
            destination.status = 204

    # Faults of nodes

    async def _break_nodes(self, rng: Random) -> None:
        """Break one node after the other, mostly while it talks with the database."""
        broken: dict[str, asyncio.Task[None]] = {}
        while not self._is_finished:
            await asyncio.sleep(rng.expovariate(1 / 5))
            whole = [node for node in self.nodes if node.name not in broken or broken[node.name].done()]
            if len(whole) > 1 or (whole and rng.random() < 0.2):
                node = rng.choice(whole)
                broken[node.name] = spawn_detached(self._break_node(node, rng))
        await asyncio.gather(*broken.values())
        for node in self.nodes:
            node.check_alive()

    async def _break_node(self, node: SimulatedNode, rng: Random) -> None:
        if rng.random() < 0.8:
            await self._wait_for_message(node, rng.randrange(_MAX_MESSAGES))
        kind = rng.choices(["killed", "stopped", "frozen", "frozen without session", "cut off"], [3, 1, 2, 2, 1])[0]
        self.oracle.counts[f"nodes {kind}"] += 1
        if kind == "cut off":
            await node.cut_off(rng.choice([0.0, 2.0, 20.0]))
            return
        if kind.startswith("frozen"):
            self.oracle.on_node_stopped(node.name)
            if kind == "frozen without session":  # then another node sends, although this one is not dead
                self.rows.execute(_END_SESSION.format(node=node.name))
            await node.freeze(rng.choice(FREEZE_SECONDS))
            return
        await (node.crash() if kind == "killed" else node.stop())
        self.oracle.on_node_stopped(node.name)
        await asyncio.sleep(rng.choice([0.0, 5.0, 30.0]) * rng.random())
        await node.start()

    async def _wait_for_message(self, node: SimulatedNode, number: int) -> None:
        """Wait until the node sends its next but *number* message to the database. It stops there for this moment."""
        owner, sent = node.incarnation, asyncio.Event()
        self._armed[owner] = (number, sent)
        with suppress(TimeoutError):
            async with asyncio.timeout(_MOST_SECONDS_WITHOUT_MESSAGE):
                await sent.wait()
        self._armed.pop(owner, None)
        self.loop.thaw(owner)

    def _on_traffic(self, owner: int) -> None:
        if owner not in self._armed:
            return
        number, sent = self._armed[owner]
        self._armed[owner] = (number - 1, sent)
        if number <= 0:
            del self._armed[owner]
            self.loop.freeze(owner)
            sent.set()

    # The end

    async def _settle(self) -> None:
        """End all faults, and wait until nothing is left to do."""
        self.network.rebinding_rate = self.kling.fault_rate = 0.0
        self.kling_conditions.make_good()
        for each in self.destinations.values():
            each.conditions.make_good()
            each.status = 204
        await asyncio.sleep(_LOOK_SECONDS)
        self.oracle.held_routes.clear()
        await self._stop_nodes(self.nodes[1:])  # one does the rest, which saves much of the time
        for route in ROUTE_EVENTS:  # also after a hold whose answer was lost
            await self.clients.request("admin", f"/api/routes/{route}/release", {})
        for _ in range(_MAX_LOOKS):
            await asyncio.sleep(_LOOK_SECONDS)
            if not any(self.unfinished().values()):
                return

    @staticmethod
    async def _stop_nodes(nodes: Sequence[SimulatedNode]) -> None:
        for node in nodes:
            if node.is_up:
                node.check_alive()
                await node.stop()

    def unfinished(self) -> Mapping[str, int]:
        """Return what is left to do."""
        names = ("tasks", "pushes", "deliveries", "batches", "replays")
        return dict(zip(names, self.oracle.rows(_UNFINISHED)[0], strict=True))


def _settings(folder: Path, url: str, *, verify: str, signs: bool) -> Settings:
    text = CONFIG.replace("@TOKEN@", TOKEN).replace("@STORE@", url).replace("@NODE@", folder.name)
    text = text.replace("@SECRET@", SECRET).replace("@VERIFY@", verify)
    (folder / "config.toml").write_text(text.replace("@SIGNING@", f'signing_secrets = ["{SECRET}"]' if signs else ""))
    return load(folder / "config.toml", {}).settings


def slot_violations(simulation: NodesSimulation) -> Iterator[str]:
    """Tasks that wait for a slot never use more than there are. Kling itself has enough here, so the service counts."""
    rows = simulation.oracle.rows("SELECT external_task_id, slot_key, weight FROM tasks WHERE origin = 'api'")
    stored = {external_id: (key, weight) for external_id, key, weight in rows}
    changes = []
    for task in simulation.kling.tasks.values():
        if task.external_id in stored:
            key, weight = stored[task.external_id]
            changes.append((task.created_at, 1, key, weight))
            changes.append((task.ended_at or float("inf"), 0, key, -weight))
    used: Counter[str] = Counter()
    for at, _, key, weight in sorted(changes):
        used[key] += weight
        if used[key] > (limit := SLOTS[key.partition("/")[0]]):
            yield f"{at / _HOUR:.3f} h: {used[key]} slots of {key} are used, there are {limit}"


def regressions(simulation: NodesSimulation) -> Iterator[str]:
    """A task's state never moves back."""
    yield from (what for (what,) in simulation.oracle.rows("SELECT what FROM regressions"))
