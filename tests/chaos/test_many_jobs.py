"""200 jobs of three models: never beyond a model's slots, no slot idle for long, each job created once, despite kills.

The real service and the simulator, in virtual time. The simulated account counts.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest
from chaos.parameters import env_int
from chaos.simulated_account import HOST, InProcessHttpClient, SimulatedAccount, a_simulated_account
from chaos.simulated_host import HostDownError, SimulatedHost
from chaos.virtual_time import VirtualClock, VirtualLoop, run_in_virtual_time

from receiver.net.http_client import IPAddress
from receiver.service import bootstrap
from receiver.settings import load

JOBS = 200
MODELS = {"kling-v2-1": 5, "kling-v2": 3, "kling-v1": 1}
MIX = (
    "kling-v2-1",
    "kling-v2",
    "kling-v2-1",
    "kling-v2",
    "kling-v2-1",
    "kling-v1",
    "kling-v2-1",
    "kling-v2-1",
    "kling-v2",
)
PLAN = [f"image/{model}={slots}" for model, slots in MODELS.items()]
PACK_SLOTS = 5
LAST_JOBS = 6
SEEDS = env_int("SEEDS", 2)
LIMITS = {
    "configured": 'image = 5\nmodels = { "kling-v2" = 3, "kling-v1" = 1 }',
    "learned": "",
}
MAX_IDLE = 2.0
TOKEN = "the-admin-token-of-a-simulation"
CONFIG = f"""
[public]
url = "https://hooks.test"
[admin]
token = "{TOKEN}"
[store]
url = "sqlite:receiver.db"
[kling]
base_url = "{HOST}"
api_key = "a key"
fair_by = "project"
"""


def run_jobs(
    folder: Path, *, limits: str, plan: Sequence[str] = PLAN, restarts: int = 0, seed: int = 7, **faults: Any
) -> SimulatedAccount:
    """Run until all jobs have finished. *limits* are the configured ones, *plan* is the account's."""

    async def run(patch: pytest.MonkeyPatch) -> SimulatedAccount:
        (folder / "config.toml").write_text(f"{CONFIG}[kling.slots]\n{limits}\n")
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        http_client, wrong = InProcessHttpClient(), list[str]()
        host = SimulatedHost(
            settings=load(folder / "config.toml", {}).settings,
            clock=VirtualClock(loop),
            rng=Random(3),
            resolve=resolve_nothing,
            report=wrong.append,
        )
        host.install(patch)
        patch.setattr(bootstrap, "HttpClient", lambda **_: http_client)
        pace = {"submitted_for": "1s", "processing_for": "9s", "slow": "30%", "slow_for": "25s"}
        options = {"slots": plan, **pace, **faults}
        jobs = jobs_by_key(plan)
        if restarts:  # a kill may leave the last creates in doubt: they are not waiting, and not repeated for a minute
            jobs = {key: count - LAST_JOBS for key, count in jobs.items()}
        async with a_simulated_account(host, http_client, jobs=jobs, **options) as account:
            await host.start()
            account.start_measuring()
            asked = [asyncio.create_task(submit_job(host, number)) for number in range(JOBS)]
            await restart_randomly(host, Random(seed), restarts)
            ids = set(await asyncio.gather(*asked))
            await wait_until_all_succeeded(host, account)
            made = {task["external_task_id"] for task in account.state()["tasks"]}
            await host.stop()
        assert wrong == []
        assert len(ids) == JOBS
        assert made == ids
        return account

    return run_in_virtual_time(run)


def jobs_by_key(plan: Sequence[str]) -> Mapping[str, int]:
    """Count the jobs by what the account counts together."""
    if "scope=pack" in plan:
        return {"image": JOBS}
    return Counter(f"image/{MIX[number % len(MIX)]}" for number in range(JOBS))


async def resolve_nothing(host: str) -> Sequence[IPAddress]:
    raise AssertionError(host)


async def submit_job(host: SimulatedHost, number: int) -> str:
    """Submit a job until it is accepted, as a client with an idempotency key does."""
    job = {
        "endpoint": "images/multi-image2image",
        "body": {
            "model_name": MIX[number % len(MIX)],
            "prompt": f"job {number}",
            "subject_image_list": [{"subject_image": "https://example.com/a.png"}],
        },
        "tags": {"project": f"p{number % 3}"},
        "idempotency_key": f"job-{number}",
    }
    while True:
        with suppress(HostDownError):
            answer = await call(host, "POST", "/api/tasks", json.dumps(job).encode())
            if answer.status == 202:
                return str(json.loads(answer.body)["id"])
        await asyncio.sleep(0.1)


async def call(host: SimulatedHost, method: str, path: str, body: bytes = b"") -> Any:
    headers = {"host": "localhost", "authorization": f"Bearer {TOKEN}", "content-type": "application/json"}
    return await host.call("admin", method, path, headers=headers, body=body)


async def restart_randomly(host: SimulatedHost, rng: Random, times: int) -> None:
    for _ in range(times):
        await asyncio.sleep(rng.uniform(0.0, 60.0))
        await host.crash()
        await host.start()


async def wait_until_all_succeeded(host: SimulatedHost, account: SimulatedAccount) -> None:
    """Wait for all creates, also those that a kill left in doubt, and for the end of the newest tasks."""
    async with asyncio.timeout(7200):
        while True:
            newest = await call(host, "GET", "/api/tasks")
            states = {task["state"] for task in json.loads(newest.body)["items"]}
            if states == {"succeed"} and account.counts["created"] >= JOBS:
                return
            await asyncio.sleep(10)


def assert_no_slot_was_idle(account: SimulatedAccount, slots: Mapping[str, int] | None = None) -> None:
    """Check for idle slots, apart from the delays that error 1302 requires: one second, doubled each time."""
    assert account.max_used == (slots or {f"image/{model}": slots for model, slots in MODELS.items()})
    assert account.counts["created"] == JOBS
    too_long = [gap for gap in account.gaps if gap.seconds > MAX_IDLE + 2**gap.rate_limited - 1]
    assert too_long == []


@pytest.mark.parametrize("restarts", [0, 12])
def test_the_configured_slots_of_each_model_are_respected_and_used(memory_folder: Path, restarts: int) -> None:
    account = run_jobs(memory_folder, limits=LIMITS["configured"], restarts=restarts)

    assert_no_slot_was_idle(account)
    assert account.error_codes == []


@pytest.mark.parametrize("restarts", [0, 12])
def test_the_learned_slots_of_each_model_are_respected_and_used(memory_folder: Path, restarts: int) -> None:
    account = run_jobs(memory_folder, limits=LIMITS["learned"], restarts=restarts)

    assert_no_slot_was_idle(account)
    assert len(account.error_codes) < 2 * JOBS


@pytest.mark.parametrize(("limits", "most_errors"), [(f"image = {PACK_SLOTS}", 0), ("", 2 * JOBS)])
def test_the_slots_of_a_whole_pack_are_respected_and_used(memory_folder: Path, limits: str, most_errors: int) -> None:
    plan = [f"image={PACK_SLOTS}", "scope=pack"]

    account = run_jobs(memory_folder, limits=f'scope = "pack"\n{limits}', plan=plan, restarts=6)

    assert_no_slot_was_idle(account, {"image": PACK_SLOTS})
    assert len(account.error_codes) <= most_errors


@pytest.mark.parametrize("limits", LIMITS)
@pytest.mark.parametrize("seed", range(5, 5 + SEEDS))
def test_rate_limit_errors_and_kills_delay_creates_no_longer_than_required(
    memory_folder: Path, seed: int, limits: str
) -> None:
    account = run_jobs(memory_folder, limits=LIMITS[limits], restarts=6, seed=seed, refuse="1302:15%")

    assert account.error_codes.count(1302) > JOBS // 20
    assert_no_slot_was_idle(account)
