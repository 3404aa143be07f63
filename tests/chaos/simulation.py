"""Everybody the service has to do with, at their worst, for as many hours as wanted.

Clients, Kling, destinations, forgers, the disk, whoever works on it and whoever restarts the machine each follow their
own chances, all out of one seed. The witness looks on.
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
from chaos.clients import TOKEN, Callers
from chaos.oracle import CLIENT, SECRET, Witness
from chaos.simulated_connection import Serve
from chaos.simulated_host import Machine
from chaos.simulated_kling import Made, Vendor
from chaos.simulated_network import Internet, Weather, outside, sometimes
from chaos.simulated_operator import Person
from chaos.virtual_time import VirtualClock, VirtualLoop

from receiver.net.http_client import Reply
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
WANTED = {"all": ["*"], "ends": ["succeed", "failed", "rejected", "expired"], "images": ["succeed"]}
GIVE_UP_HOURS = {"all": 96, "ends": 12, "images": 96}

_ADDRESSES = ("10.77.0.2", "127.0.0.77", "192.168.77.4", "9.9.9.9")
_HEADERS = {429: {"retry-after": "120"}, 503: {"retry-after": "120"}, 301: {"location": "http://169.254.169.254/"}}
_HOUR = 3600.0
_MUCH = 1 << 40
_DAYS_AFTER = 8
_DAYS_AFTER_JUMPS = 20
_FARTHEST_DAYS = 3
_STRIKES_ON_THE_WAY = 0.02


@dataclass(slots=True)
class Destination:
    """A webhook, or a client's own callback URL: how it is, how it answers, which deliveries it took."""

    weather: Weather = field(default_factory=Weather)
    mood: int = 204
    took: set[str] = field(default_factory=set)


class World:
    """All of it, in one run."""

    def __init__(self, folder: Path, seed: int, *, patch: pytest.MonkeyPatch, jumps: bool = False) -> None:
        self.rng = Random(seed)
        self.jumps = jumps
        self.verify = self.rng.choice(["terminal", "always"])
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        self.clock = VirtualClock(loop)
        self.weather = Weather()
        self.destinations = {name: Destination() for name in (*WANTED, CLIENT)}
        truth: dict[str, Made] = {}
        signs = self.rng.random() < 0.5
        self.witness = Witness(folder / "receiver.db", truth)
        self.internet = loop.network = Internet(self._chance(), self.witness.dialled)
        self.machine = Machine(
            settings=_settings(folder, verify=self.verify, signs=signs),
            clock=self.clock,
            rng=self._chance(),
            resolve=self.internet.resolve,
            watch=self.witness.watch,
            wrong=self.witness.tell,
            saw_task=self.witness.saw_task,
            newest_kept=self.witness.newest_id,
        )
        self.machine.install(patch)
        self.callers = Callers(self._chance(), self.machine, self.witness, signs=signs)
        self.vendor = Vendor(self._chance(), self.callers.push, truth, slots=SLOTS)
        self.internet.connect("api.klingai.com", "10.77.0.1", self.vendor.serve, self.weather)
        for (name, each), address in zip(self.destinations.items(), _ADDRESSES, strict=True):
            serve = self._answers_of(name, each)
            self.internet.connect(f"{name}.test", address, serve, each.weather, is_strangers=name == CLIENT)
        self._over, self._strike = asyncio.Event(), asyncio.Event()
        self._chances_on_the_way = self._chance()
        self.person = Person(self._chance(), self.callers, self.witness, routes=list(WANTED))

    def _chance(self) -> Random:
        return Random(self.rng.random())

    def _answers_of(self, name: str, destination: Destination) -> Serve:
        def serve(_: str, __: str, headers: dict[str, str], body: bytes) -> Reply:
            self.witness.counts["attempts that arrived"] += 1
            self.witness.trace(name, destination.mood)
            self.witness.look_at(name, headers, body)
            if destination.mood // 100 == 2:
                destination.took.add(headers["kling-receiver-delivery"])
            return Reply(status=destination.mood, headers=_HEADERS.get(destination.mood, {}), body=b"")

        return serve

    async def live(self, hours: float, *, to_the_end: bool = True) -> None:
        """Let everybody be at their worst for so long, then be kind for as long as all ends take, and stop."""
        await self.machine.start()
        restarting = outside(self._restart_now_and_then(self._chance()))
        goings_on = [outside(each) for each in self._goings_on()]
        await asyncio.sleep(hours * _HOUR)
        self._over.set()
        self._strike.set()
        await restarting
        for each in goings_on:
            each.cancel()
        await asyncio.gather(*goings_on, return_exceptions=True)
        self._calm_down()
        if to_the_end:
            await asyncio.sleep(24 * _HOUR * (_DAYS_AFTER_JUMPS if self.jumps else _DAYS_AFTER))
        self.machine.check_alive()
        await self.machine.stop()
        self.witness.counts.update(
            hours=round(self.clock.monotonic() / _HOUR), crashes=self.machine.crashes, stops=self.machine.stops
        )

    def _goings_on(self) -> Iterator[Coroutine[Any, Any, None]]:
        yield self.weather.change(self._chance(), calm=20, foul=1)
        for each in self.destinations.values():
            yield each.weather.change(self._chance(), calm=30, foul=2)
            yield self._have_moods(each, self._chance())
        for hours, do in (
            (15, self.callers.ask_by_api),
            (30, self.callers.ask_by_gateway),
            (50, partial(self.callers.mint, self.vendor)),
            (20, partial(self.callers.forge, self.vendor)),
            (150, self.callers.burst),
        ):
            yield sometimes(self._chance(), hours, do)
        yield self._fill_the_disk_now_and_then(self._chance())
        if self.jumps:
            yield sometimes(self._chance(), 30, self._jump)
        for hours, do in (
            (60, self.person.hold_a_route),
            (25, self.person.try_again),
            (60, self.person.replay),
            (6, self.person.cancel),
        ):
            yield sometimes(self._chance(), hours, do)
        self.internet.on_the_way = self._on_the_way

    def _calm_down(self) -> None:
        self.internet.on_the_way = lambda: None
        self.internet.misled = 0.0
        self.vendor.trouble = 0.0
        self.weather.be_fine()
        for each in self.destinations.values():
            each.weather.be_fine()
            each.mood = 204
        self._make_room()

    # Troubles

    @staticmethod
    async def _have_moods(destination: Destination, rng: Random) -> None:
        while True:
            await asyncio.sleep(_HOUR * rng.expovariate(1 / 15))
            destination.mood = rng.choices([500, 503, 429, 410, 301], [4, 2, 2, 1, 1])[0]
            await asyncio.sleep(_HOUR * rng.choice([0.02, 0.5, 3.0]))
            destination.mood = 204

    async def _restart_now_and_then(self, rng: Random) -> None:
        while not self._over.is_set():
            await self._is_struck_within(_HOUR * rng.expovariate(1 / 10))
            self.machine.check_alive()
            if rng.random() < 0.7:
                await self.machine.crash()
            else:
                await self.machine.stop()
            self.witness.forget_who_died()
            await asyncio.sleep(rng.choice([0.0, 1.0, 60.0, _HOUR]) * rng.random())
            await self.machine.start()

    async def _is_struck_within(self, seconds: float) -> None:
        self._strike.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._strike.wait()

    async def _fill_the_disk_now_and_then(self, rng: Random) -> None:
        while True:
            await asyncio.sleep(_HOUR * rng.expovariate(1 / 60))
            self.machine.free = 0
            self.machine.disk_is_full = rng.random() < 0.5
            await asyncio.sleep(_HOUR * rng.expovariate(1.0))
            self._make_room()

    def _make_room(self) -> None:
        self.machine.free, self.machine.disk_is_full = _MUCH, False

    def _on_the_way(self) -> None:
        """Strike while a request is under way, where it hurts most: kill or stop the service, set the clock."""
        if self._chances_on_the_way.random() < _STRIKES_ON_THE_WAY:
            self._strike.set()
        if self.jumps and self._chances_on_the_way.random() < _STRIKES_ON_THE_WAY:
            self._set_clock()

    async def _jump(self) -> None:
        self._set_clock()

    def _set_clock(self) -> None:
        """Set the clock a day on or a day back."""
        ahead = self.clock.error.days
        days = self.rng.choice([-1, 1]) if abs(ahead) < _FARTHEST_DAYS else -1 if ahead > 0 else 1
        self.clock.error += timedelta(days=days)
        self.witness.counts["clock jumps"] += 1


def _settings(folder: Path, *, verify: str, signs: bool) -> Settings:
    text = CONFIG.replace("@TOKEN@", TOKEN).replace("@STORE@", str(folder / "receiver.db")).replace("@SECRET@", SECRET)
    text = text.replace("@VERIFY@", verify).replace("@SLOTS@", str(SLOTS))
    (folder / "config.toml").write_text(text.replace("@SIGNING@", f'signing_secrets = ["{SECRET}"]' if signs else ""))
    return load(folder / "config.toml", {}).settings
