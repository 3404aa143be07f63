"""Network faults before a webhook, with the real service: each attempt records the fault, and all deliveries arrive.

``DELIVERIES`` is the number of deliveries sent through random faults, ``SEED`` chooses the faults.
"""

import asyncio
import contextlib
import re
import ssl
from pathlib import Path
from random import Random

import pytest
from chaos.fault_proxy import FAULTS, NOT_TLS, PASS_THROUGH, UNHEARD, FaultProxy, a_fault_proxy
from chaos.parameters import env_int, fresh_seed
from harness.fake_dns import TEMPORARY_FAILURE, fake_dns_environment
from harness.raw_http import http_request
from harness.running_service import (
    SECRET,
    Receiver,
    Sink,
    a_config,
    a_push_body,
    a_receiver,
    a_sink,
    a_webhook_route,
    create_callback_url,
)
from harness.soak_report import RecordCounts
from harness.waiting import wait_until
from starlette.responses import Response

DELIVERIES = env_int("DELIVERIES", 100)
TRUST_CALLBACKS = '[callbacks]\nverify = "never"\n'
CERTIFICATE = Path(__file__).parents[1] / "data" / "host.example.pem"
RESPONSE_TEXT = b"thank you, it is written down and will be seen to"
SHARE_OF_FAULTS = 0.4
TIMED_OUT = r"within 1 s"
"""A reason that any attempt may have on a busy machine."""

ATTEMPTS_QUERY = """
    SELECT deliveries.id, route, number, outcome, attempts.reason FROM attempts
    JOIN deliveries ON deliveries.id = attempts.delivery_id ORDER BY deliveries.id, number
"""


def a_route(name: str, url: str, *, extra: str) -> str:
    return f"""
[[routes]]
name = "{name}"
webhook = {{ url = "{url}", secret = "{SECRET}", timeout = "1s" }}
{extra}
"""


async def push_callbacks(receiver: Receiver, statuses: list[str]) -> None:
    """Create this many tasks and push one status for each."""
    async with receiver.client() as client:
        for number_, word in enumerate(statuses):
            _, url = await create_callback_url(client)
            assert (await http_request("POST", url, a_push_body(word, task_id=f"k{number_}"))).status == 200


def respond_with_text(sink: Sink) -> None:
    sink.answer = lambda: Response(RESPONSE_TEXT)


async def wait_until_delivered(receiver: Receiver, *, seconds: float) -> None:
    left = "SELECT count(*) FROM deliveries WHERE status <> 'delivered' OR claim IS NOT NULL"
    await wait_until(lambda: receiver.rows(left) == [(0,)], seconds=seconds)


def reason_matches(pattern: str, reason: str) -> bool:
    """Return whether a reason is one of the expected ones. A timeout is always possible."""
    return re.search(pattern or "^$", reason) is not None or re.search(TIMED_OUT, reason) is not None


async def test_each_network_fault_is_recorded_and_the_delivery_arrives_after_it(tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    names = {"host.example": ["127.0.0.1"], "dead.example": [TEMPORARY_FAILURE, "127.0.0.1"]}
    environ = fake_dns_environment(tmp_path, names) | {"SSL_CERT_FILE": str(CERTIFICATE)}
    said = FAULTS | {NOT_TLS: r"TLS with host\.example:\d+ failed \(.+\): check that it is an https port"}
    said |= {"no name": r"The host name dead\.example could not be resolved \(.+\): check this machine's DNS"}
    async with a_sink() as sink, contextlib.AsyncExitStack() as stack:
        respond_with_text(sink)
        proxies: list[FaultProxy] = []
        routes = [a_webhook_route(sink, name="untouched", extra='on = ["*"]')]
        for number_, fault in enumerate(said):
            proxy = await stack.enter_async_context(a_fault_proxy(sink.url, tls=context if fault == NOT_TLS else None))
            proxies.append(proxy)
            proxy.choose_fault = lambda fault=fault: PASS_THROUGH if fault == "no name" else fault  # type: ignore[misc]  # bound at definition
            host = {NOT_TLS: "https://host.example", "no name": "http://dead.example"}.get(fault, "http://127.0.0.1")
            more = 'on = ["processing"]\nconcurrency = 1\nretry = ["3s"]'
            routes.append(a_route(f"faulty-{number_}", f"{host}:{proxy.port}/hook", extra=more))
        config = a_config("http://127.0.0.1:9", more=TRUST_CALLBACKS + "".join(routes))
        async with a_receiver(tmp_path, config, environ=environ) as receiver:
            await push_callbacks(receiver, ["processing"] + ["succeed"] * 10)
            await wait_until(
                lambda: len({row[1] for row in receiver.rows(ATTEMPTS_QUERY)}) == len(said) + 1, seconds=60
            )
            for proxy in proxies:
                proxy.choose_fault = lambda: PASS_THROUGH
            await wait_until_delivered(receiver, seconds=60)

            story = receiver.rows(ATTEMPTS_QUERY)
            for number_, (fault, words) in enumerate(said.items()):
                tries = [row[2:] for row in story if row[1] == f"faulty-{number_}"]
                assert reason_matches(words, tries[0][2]), (fault, tries)
                assert tries[-1][1] == "accepted"
            assert [row[2:4] for row in story if row[1] == "untouched"] == [(1, "accepted")] * 11
            assert await receiver.stop() == 0


@pytest.mark.soak("a faulty way to a webhook", minutes=10)
@pytest.mark.timeout(180 + DELIVERIES)
async def test_every_delivery_arrives_under_one_id_despite_random_faults(
    tmp_path: Path, record_counts: RecordCounts
) -> None:
    seed = fresh_seed()
    rng = Random(seed)
    record_counts(seed=seed, deliveries=DELIVERIES)
    async with a_sink() as sink, a_sink() as other, a_fault_proxy(sink.url) as proxy:
        respond_with_text(sink)
        proxy.choose_fault = lambda: rng.choice([*FAULTS]) if rng.random() < SHARE_OF_FAULTS else PASS_THROUGH
        more = 'on = ["*"]\nconcurrency = 8\nretry = ["100ms"]'
        routes = a_route("faulty", f"http://127.0.0.1:{proxy.port}/hook", extra=more)
        routes += a_webhook_route(other, name="untouched", extra='on = ["*"]')
        async with a_receiver(tmp_path, a_config("http://127.0.0.1:9", more=TRUST_CALLBACKS + routes)) as receiver:
            over = asyncio.Event()
            releasing = asyncio.create_task(release_when_held(receiver, over))
            await push_callbacks(receiver, ["succeed"] * DELIVERIES)
            await wait_until_delivered(receiver, seconds=120 + DELIVERIES)
            over.set()
            releases = await releasing
            assert await receiver.stop() == 0
            story = receiver.rows(ATTEMPTS_QUERY)

        events = {event for (event,) in receiver.rows("SELECT id FROM events WHERE type = 'task.succeed'")}
        untrue = [each for each in story if each[1] == "faulty" and not attempt_matches(proxy, each)]
        record_counts(
            attempts=len(story) - DELIVERIES,
            failed=sum(outcome == "failed" for _, _, _, outcome, _ in story),
            with_an_untrue_reason=len(untrue),
            undelivered=len(events - sink.received.keys()),
            held_and_released=releases,
        )
        assert untrue == []
        assert events <= sink.received.keys() == other.received.keys()
        assert {len(ids) for ids in proxy.webhook_ids.values()} == {1}
        assert all(body == bodies[0] for bodies in sink.received.values() for body in bodies)
        assert {row[2:4] for row in story if row[1] == "untouched"} == {(1, "accepted")}


def attempt_matches(proxy: FaultProxy, attempt: tuple[str, str, int, str, str]) -> bool:
    """Return whether a stored attempt matches the fault that the proxy injected."""
    delivery, _, number_, outcome, reason = attempt
    fault = proxy.applied.get((delivery, number_), "slammed")
    words = FAULTS.get(fault, "")
    if fault in UNHEARD:  # the new connection may have been slammed, which the proxy cannot assign to an attempt
        words += "|" + FAULTS["slammed"]
    return words == "" if outcome == "accepted" else reason != "" and reason_matches(words, reason)


async def release_when_held(receiver: Receiver, over: asyncio.Event) -> int:
    """Release the route as an operator would, without waiting for a probe. Return how often."""
    releases = 0
    async with receiver.client() as client:
        while not over.is_set():
            for (name,) in receiver.rows("SELECT name FROM routes WHERE held_at IS NOT NULL"):
                released = await client.post(f"/api/routes/{name}/release", json={"why": "a test knows better"})
                releases += released.status_code == 200
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.2):
                    await over.wait()
    return releases
