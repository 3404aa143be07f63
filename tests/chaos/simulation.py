"""The service and everything around it, all behaving badly, for any number of hours.

Clients, Kling, destinations, forgers, the disk, operators and restarts each act at random times, all from one seed. The
oracle observes them.
"""

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest
from chaos.clients import TOKEN, Clients
from chaos.oracle import CLIENT, SECRET, Oracle
from chaos.simulated_connection import Handler
from chaos.simulated_host import SimulatedHost
from chaos.simulated_kling import SimulatedKling, SimulatedTask
from chaos.simulated_network import (
    NetworkConditions,
    SimulatedNetwork,
    repeat_randomly,
    running_detached,
    spawn_detached,
)
from chaos.simulated_operator import Operator
from chaos.virtual_time import VirtualClock, VirtualLoop

from receiver.net.http_client import HttpResponse
from receiver.settings import Settings, load

SLOTS = 9
CONFIG = """
[public]
url = "https://hooks.test"
[admin]
token = "@TOKEN@"
[store]
url = "sqlite:@STORE@"
[kling]
base_url = "http://api.klingai.com"
api_key = "a key"
slots = { image = @SLOTS@ }
[callbacks]
verify = "@VERIFY@"
@SIGNING@
[[routes]]
name = "all"
on = ["*"]
unverified = true
webhook = { url = "http://all.test/", secret = "@SECRET@" }
[[routes]]
name = "ends"
on = ["succeed", "failed", "rejected", "expired"]
webhook = { url = "http://ends.test/", secret = "@SECRET@" }
retry = ["1m", "10m"]
give_up_after = "12h"
concurrency = 2
[[routes]]
name = "images"
endpoints = ["images/*"]
webhook = { url = "http://images.test/", secret = "@SECRET@", payload = "kling" }
rate = "1/s"
concurrency = 3
"""
ROUTE_EVENTS = {"all": ["*"], "ends": ["succeed", "failed", "rejected", "expired"], "images": ["succeed"]}
GIVE_UP_HOURS = {"all": 96, "ends": 12, "images": 96}

ADDRESSES = ("10.77.0.2", "127.0.0.77", "192.168.77.4", "9.9.9.9")
_HEADERS = {429: {"retry-after": "120"}, 503: {"retry-after": "120"}, 301: {"location": "http://169.254.169.254/"}}
_HOUR = 3600.0
_PLENTY_OF_DISK = 1 << 40
_SETTLE_DAYS = 8
_SETTLE_DAYS_AFTER_JUMPS = 20
_MAX_CLOCK_OFFSET_DAYS = 3
_INTERRUPT_PROBABILITY = 0.02


@dataclass(slots=True)
class Destination:
    """A webhook or a client's callback URL: its conditions, its answers, and the deliveries it accepted."""

    conditions: NetworkConditions = field(default_factory=NetworkConditions)
    status: int = 204
    accepted: set[str] = field(default_factory=set)


def handler_for(oracle: Oracle, name: str, destination: Destination) -> Handler:
    """Return what a destination does with the attempts that arrive."""

    def serve(_: str, __: str, headers: dict[str, str], body: bytes) -> HttpResponse:
        oracle.counts["attempts that arrived"] += 1
        oracle.trace(name, destination.status)
        oracle.on_webhook(name, headers, body)
        if destination.status // 100 == 2:
            destination.accepted.add(headers["kling-receiver-delivery"])
        return HttpResponse(status=destination.status, headers=_HEADERS.get(destination.status, {}), body=b"")

    return serve


class Simulation:
    """One complete run."""

    def __init__(
        self, folder: Path, seed: int, *, patch: pytest.MonkeyPatch, jumps: bool = False, one_shots: bool = False
    ) -> None:
        self.rng = Random(seed)
        self.jumps = jumps
        self.verify = self.rng.choice(["terminal", "always"])
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        self.clock = VirtualClock(loop)
        self.kling_conditions = NetworkConditions()
        self.destinations = {name: Destination() for name in (*ROUTE_EVENTS, CLIENT)}
        truth: dict[str, SimulatedTask] = {}
        signs = self.rng.random() < 0.5
        self.oracle = Oracle(folder / "receiver.db", truth)
        self.network = loop.network = SimulatedNetwork(self._new_rng(), self.oracle.on_forbidden_dial)
        self.host = SimulatedHost(
            settings=_settings(folder, verify=self.verify, signs=signs),
            clock=self.clock,
            rng=self._new_rng(),
            resolve=self.network.resolve,
            watch_attempt=self.oracle.watch_attempt,
            report=self.oracle.report,
            on_task_stored=self.oracle.on_task_stored,
            newest_stored_id=self.oracle.newest_id,
        )
        self.host.install(patch)
        self.clients = Clients(self._new_rng(), self.host, self.oracle, signs=signs, one_shots=one_shots)
        self.kling = SimulatedKling(self._new_rng(), self.clients.push, truth, slots=SLOTS)
        self.network.add_peer("api.klingai.com", "10.77.0.1", self.kling.serve, self.kling_conditions)
        for (name, each), address in zip(self.destinations.items(), ADDRESSES, strict=True):
            serve = handler_for(self.oracle, name, each)
            self.network.add_peer(f"{name}.test", address, serve, each.conditions, is_untrusted=name == CLIENT)
        self._is_finished, self._interrupt = asyncio.Event(), asyncio.Event()
        self._interrupt_rng = self._new_rng()
        self.operator = Operator(self._new_rng(), self.clients, self.oracle, routes=list(ROUTE_EVENTS))

    def _new_rng(self) -> Random:
        return Random(self.rng.random())

    async def run(self, hours: float, *, until_settled: bool = True, until: str | None = None) -> None:
        """Run with all faults for this long, then without faults until everything has finished, then stop.

        The faults end at once when a violation contains *until*.
        """
        found = self.oracle.wait_for(until)
        await self.host.start()
        restarting = spawn_detached(self._restart_randomly(self._new_rng()))
        async with running_detached(self._activities()):
            with suppress(TimeoutError):
                async with asyncio.timeout(hours * _HOUR):
                    await found.wait()
            self._is_finished.set()
            self._interrupt.set()
            await restarting
        self._stop_faults()
        if until_settled:
            await asyncio.sleep(24 * _HOUR * (_SETTLE_DAYS_AFTER_JUMPS if self.jumps else _SETTLE_DAYS))
        self.host.check_alive()
        await self.host.stop()
        self.oracle.counts.update(
            hours=round(self.clock.monotonic() / _HOUR), crashes=self.host.crashes, stops=self.host.stops
        )

    def _activities(self) -> Iterator[Coroutine[Any, Any, None]]:
        yield self.kling_conditions.vary(self._new_rng(), mean_good_hours=20, mean_bad_hours=1)
        for each in self.destinations.values():
            yield each.conditions.vary(self._new_rng(), mean_good_hours=30, mean_bad_hours=2)
            yield self._vary_status(each, self._new_rng())
        for hours, do in (
            (15, self.clients.submit_by_api),
            (30, self.clients.create_by_gateway),
            (20, partial(self.clients.create_callback_url, self.kling)),
            (20, partial(self.clients.forge_push, self.kling)),
            (150, self.clients.submit_burst),
        ):
            yield repeat_randomly(self._new_rng(), hours, do)
        yield self._fill_disk_randomly(self._new_rng())
        if self.jumps:
            yield repeat_randomly(self._new_rng(), 30, self._jump_clock)
        for hours, do in (
            (60, self.operator.hold_route),
            (25, self.operator.retry_delivery),
            (60, self.operator.replay),
            (6, self.operator.cancel_task),
        ):
            yield repeat_randomly(self._new_rng(), hours, do)
        self.network.on_data_in_flight = self._on_data_in_flight

    def _stop_faults(self) -> None:
        self.network.on_data_in_flight = lambda: None
        self.network.rebinding_rate = 0.0
        self.kling.fault_rate = 0.0
        self.kling_conditions.make_good()
        for each in self.destinations.values():
            each.conditions.make_good()
            each.status = 204
        self._free_disk()

    # Faults

    @staticmethod
    async def _vary_status(destination: Destination, rng: Random) -> None:
        while True:
            await asyncio.sleep(_HOUR * rng.expovariate(1 / 15))
            destination.status = rng.choices([500, 503, 429, 410, 301], [4, 2, 2, 1, 1])[0]
            await asyncio.sleep(_HOUR * rng.choice([0.02, 0.5, 3.0]))
            destination.status = 204

    async def _restart_randomly(self, rng: Random) -> None:
        while not self._is_finished.is_set():
            await self._wait_for_interrupt(_HOUR * rng.expovariate(1 / 10))
            self.host.check_alive()
            if rng.random() < 0.7:
                await self.host.crash()
            else:
                await self.host.stop()
            self.oracle.on_process_end()
            await asyncio.sleep(rng.choice([0.0, 1.0, 60.0, _HOUR]) * rng.random())
            await self.host.start()

    async def _wait_for_interrupt(self, seconds: float) -> None:
        self._interrupt.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._interrupt.wait()

    async def _fill_disk_randomly(self, rng: Random) -> None:
        while True:
            await asyncio.sleep(_HOUR * rng.expovariate(1 / 60))
            self.host.free_bytes = 0
            self.host.disk_is_full = rng.random() < 0.5
            await asyncio.sleep(_HOUR * rng.expovariate(1.0))
            self._free_disk()

    def _free_disk(self) -> None:
        self.host.free_bytes, self.host.disk_is_full = _PLENTY_OF_DISK, False

    def _on_data_in_flight(self) -> None:
        """Act while a request is in flight: kill or stop the service, or set the clock."""
        if self._interrupt_rng.random() < _INTERRUPT_PROBABILITY:
            self._interrupt.set()
        if self.jumps and self._interrupt_rng.random() < _INTERRUPT_PROBABILITY:
            self._shift_clock()

    async def _jump_clock(self) -> None:
        self._shift_clock()

    def _shift_clock(self) -> None:
        """Set the clock a day forward or back."""
        ahead = self.clock.offset.days
        days = self.rng.choice([-1, 1]) if abs(ahead) < _MAX_CLOCK_OFFSET_DAYS else -1 if ahead > 0 else 1
        self.clock.offset += timedelta(days=days)
        self.oracle.counts["clock jumps"] += 1


def _settings(folder: Path, *, verify: str, signs: bool) -> Settings:
    text = CONFIG.replace("@TOKEN@", TOKEN).replace("@STORE@", str(folder / "receiver.db")).replace("@SECRET@", SECRET)
    text = text.replace("@VERIFY@", verify).replace("@SLOTS@", str(SLOTS))
    (folder / "config.toml").write_text(text.replace("@SIGNING@", f'signing_secrets = ["{SECRET}"]' if signs else ""))
    return load(folder / "config.toml", {}).settings
