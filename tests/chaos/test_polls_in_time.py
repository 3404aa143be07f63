"""How soon polls see the end of a task, and at what cost: the real service and a Kling with several models.

Run with ``-s`` to see the figures.
"""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import pytest
from chaos.parameters import env_int
from chaos.simulated_host import SimulatedHost
from chaos.test_many_jobs import call, resolve_nothing
from chaos.timed_kling import HOST, MAX_POLLS, Model, PollFigures, TimedKling
from chaos.virtual_time import VirtualClock, VirtualLoop, run_in_virtual_time

from receiver.service import bootstrap
from receiver.settings import load
from receiver.tracking.poller import MAX_POLLS_PER_SECOND

pytestmark = pytest.mark.timeout(600)  # a simulated hour is half a minute of computing
MODELS = [
    Model("images/generations", 24, 0.15, {"model_name": "kling-v2-1"}),
    Model("images/multi-image2image", 35, 0.2, {"model_name": "kling-v2"}),
    Model("videos/text2video", 95, 0.18, {"model_name": "kling-v2-6", "mode": "std", "duration": "5"}),
    Model("videos/text2video", 210, 0.12, {"model_name": "kling-v2-6", "mode": "pro", "duration": "10"}),
    Model("videos/image2video", 420, 0.07, {"model_name": "kling-v1-6"}),
    Model("text-to-video/kling-3.0-turbo", 60, 0.15),
    Model("audio/text-to-audio", 12, 0.1),
]
JOBS_PER_MODEL = env_int("JOBS_PER_MODEL", 100)
SEED = env_int("JOBS_SEED", 5)
WANTED = 0.95
CONFIG = """
[public]
url = "{url}"
[admin]
token = "the-admin-token-of-a-simulation"
[store]
url = "sqlite:receiver.db"
[kling]
base_url = "{host}"
api_key = "a key"
"""

Scenario = Callable[[SimulatedHost, TimedKling], Awaitable[None]]


def simulate(folder: Path, scenario: Scenario, *, public_url: str = "", **kling_options: bool) -> TimedKling:
    """Run a scenario in virtual time. Return Kling with what it measured."""

    async def run(patch: pytest.MonkeyPatch) -> TimedKling:
        kling = TimedKling(MODELS, rng=Random(SEED), **kling_options)  # type: ignore[arg-type] # the names of its fields
        async with a_host(folder, kling, patch, public_url=public_url) as host:
            await scenario(host, kling)
        return kling

    return run_in_virtual_time(run)


@asynccontextmanager
async def a_host(
    folder: Path, kling: TimedKling, patch: pytest.MonkeyPatch, *, public_url: str
) -> AsyncIterator[SimulatedHost]:
    """Run the service on a simulated host."""
    (folder / "config.toml").write_text(CONFIG.format(url=public_url, host=HOST))
    loop, wrong = asyncio.get_running_loop(), list[str]()
    assert isinstance(loop, VirtualLoop)
    host = SimulatedHost(
        settings=load(folder / "config.toml", {}).settings,
        clock=VirtualClock(loop),
        rng=Random(3),
        resolve=resolve_nothing,
        report=wrong.append,
    )
    kling.host = host
    host.install(patch)
    patch.setattr(bootstrap, "HttpClient", lambda **_: kling)
    await host.start()
    yield host
    await host.stop()
    assert wrong == []


async def submit(host: SimulatedHost, model: Model) -> None:
    job = {"endpoint": model.endpoint, "body": {"prompt": "a cat", **model.body}}
    answer = await call(host, "POST", "/api/tasks", json.dumps(job).encode())
    assert answer.status == 202, answer.body


async def submit_all(host: SimulatedHost, *, each: int = JOBS_PER_MODEL, seed: int = SEED) -> None:
    """Submit tasks of all models in random order, one every few seconds, and wait until all have ended."""
    rng = Random(seed)
    jobs = [model for model in MODELS for _ in range(each)]
    rng.shuffle(jobs)
    for model in jobs:
        await submit(host, model)
        await asyncio.sleep(rng.expovariate(1 / 4))
    await asyncio.sleep(1500)


def assert_aim_is_met(kling: TimedKling, figures: PollFigures, title: str) -> None:
    print(f"\n{figures.report(title)}")  # noqa: T201 -- the figures are what a reader wants
    assert figures.in_time >= WANTED  # also the first tasks of each model, when nothing was known
    assert max(task.polls for task in figures.tasks) <= MAX_POLLS
    assert max(Counter(int(at) for at in kling.queries).values()) <= MAX_POLLS_PER_SECOND


@pytest.mark.parametrize("says_times", [True, False], ids=["kling with times", "a gateway without times"])
def test_without_callbacks_ends_are_detected_in_time_with_few_polls(memory_folder: Path, says_times: bool) -> None:
    kling = simulate(memory_folder, lambda host, _: submit_all(host), says_times=says_times)

    assert_aim_is_met(kling, PollFigures(list(kling.tasks.values())), "no callbacks")


def test_expected_ends_of_tasks_survive_a_restart(memory_folder: Path) -> None:
    async def scenario(host: SimulatedHost, kling: TimedKling) -> None:
        await submit_all(host, each=10)
        await host.stop()
        await host.start()
        known = len(kling.tasks)
        await submit_all(host, each=3, seed=SEED + 1)
        for name in list(kling.tasks)[:known]:
            del kling.tasks[name]

    kling = simulate(memory_folder, scenario)

    figures = PollFigures(list(kling.tasks.values()))
    assert len(figures.tasks) == 3 * len(MODELS)
    assert figures.in_time >= 0.85  # 21 tasks


def test_polls_are_frequent_while_callbacks_are_missing_and_rare_once_they_arrive(memory_folder: Path) -> None:
    figures: dict[str, PollFigures] = {}

    async def scenario(host: SimulatedHost, kling: TimedKling) -> None:
        for name, calls_back in (("working", True), ("missing", False), ("mended", True)):
            kling.calls_back = calls_back
            await submit_all(host, each=8)  # the monitor notices the change meanwhile
            kling.tasks.clear()
            await submit_all(host, each=30)
            figures[name] = PollFigures(list(kling.tasks.values()))
            kling.tasks.clear()

    kling = simulate(memory_folder, scenario, public_url="https://hooks.test")

    assert_aim_is_met(kling, figures["missing"], "missing callbacks")
    for name in ("working", "mended"):
        polls = [task.polls for task in figures[name].tasks]
        print(f"{name} callbacks: {sum(polls) / len(polls):.1f} polls a task")  # noqa: T201 -- as above
        assert sum(polls) / len(polls) < 4
