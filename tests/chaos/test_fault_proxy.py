"""A bad way to a webhook, under the real service: each attempt says truly what went wrong, and all arrives.

``DELIVERIES`` is how many are sent through a proxy that does one thing or another to them, ``SEED`` which.
"""

import asyncio
import contextlib
import re
import ssl
from pathlib import Path
from random import Random

import pytest
from chaos.fault_proxy import FAIR, FAULTS, NOT_TLS, Proxy, a_proxy
from chaos.parameters import fresh_seed, number
from harness.fake_dns import DEAD, resolving
from harness.raw_http import ask
from harness.running_service import (
    SECRET,
    Receiver,
    Sink,
    a_config,
    a_push,
    a_receiver,
    a_sink,
    a_webhook_route,
    minted,
)
from harness.soak_report import Tell
from harness.support import until
from starlette.responses import Response

DELIVERIES = number("DELIVERIES", 100)
TRUSTING = '[callbacks]\nverify = "never"\n'
CERTIFICATE = Path(__file__).parents[1] / "data" / "host.example.pem"
WORDS = b"thank you, it is written down and will be seen to"
SHARE_OF_FAULTS = 0.4
TIMED_OUT = r"within 1 s"
"""What may be said of anything where the machine is busy."""

STORY = """
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


async def pushed(receiver: Receiver, words: list[str]) -> None:
    """Have so many tasks, and push a word about each."""
    async with receiver.client() as client:
        for number_, word in enumerate(words):
            _, url = await minted(client)
            assert (await ask("POST", url, a_push(word, task_id=f"k{number_}"))).status == 200


def says_thanks(sink: Sink) -> None:
    sink.answer = lambda: Response(WORDS)


async def all_delivered(receiver: Receiver, *, within: float) -> None:
    left = "SELECT count(*) FROM deliveries WHERE status <> 'delivered' OR claim IS NOT NULL"
    await until(lambda: receiver.rows(left) == [(0,)], within=within)


def told_truly(words: str, reason: str) -> bool:
    """Tell whether a reason is the one to be told, if any is; that time ran out is always true enough."""
    return re.search(words or "^$", reason) is not None or re.search(TIMED_OUT, reason) is not None


async def test_each_fault_is_told_truly_and_once_it_is_gone_the_delivery_arrives(tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    names = {"host.example": ["127.0.0.1"], "dead.example": [DEAD, "127.0.0.1"]}
    environ = resolving(tmp_path, names) | {"SSL_CERT_FILE": str(CERTIFICATE)}
    said = FAULTS | {NOT_TLS: r"TLS with host\.example:\d+ failed \(.+\): is it an https port\?"}
    said |= {"no name": r"The name dead\.example could not be resolved \(.+\): check this machine's DNS"}
    async with a_sink() as sink, contextlib.AsyncExitStack() as stack:
        says_thanks(sink)
        proxies: list[Proxy] = []
        routes = [a_webhook_route(sink, name="untouched", extra='on = ["*"]')]
        for number_, fault in enumerate(said):
            proxy = await stack.enter_async_context(a_proxy(sink.url, tls=context if fault == NOT_TLS else None))
            proxies.append(proxy)
            proxy.choose = lambda fault=fault: FAIR if fault == "no name" else fault  # type: ignore[misc]  # bound now
            host = {NOT_TLS: "https://host.example", "no name": "http://dead.example"}.get(fault, "http://127.0.0.1")
            more = 'on = ["processing"]\nconcurrency = 1\nretry = ["3s"]'
            routes.append(a_route(f"faulty-{number_}", f"{host}:{proxy.port}/hook", extra=more))
        config = a_config("http://127.0.0.1:9", more=TRUSTING + "".join(routes))
        async with a_receiver(tmp_path, config, environ=environ) as receiver:
            await pushed(receiver, ["processing"] + ["succeed"] * 10)
            await until(lambda: len({row[1] for row in receiver.rows(STORY)}) == len(said) + 1, within=60)
            for proxy in proxies:
                proxy.choose = lambda: FAIR
            await all_delivered(receiver, within=60)

            story = receiver.rows(STORY)
            for number_, (fault, words) in enumerate(said.items()):
                tries = [row[2:] for row in story if row[1] == f"faulty-{number_}"]
                assert told_truly(words, tries[0][2]), (fault, tries)
                assert tries[-1][1] == "accepted"
            assert [row[2:4] for row in story if row[1] == "untouched"] == [(1, "accepted")] * 11
            assert await receiver.stop() == 0


@pytest.mark.soak("a faulty way to a webhook", minutes=10)
@pytest.mark.timeout(180 + DELIVERIES)
async def test_through_any_faults_all_is_delivered_in_the_end_under_one_id(tmp_path: Path, tell: Tell) -> None:
    seed = fresh_seed()
    rng = Random(seed)
    tell(seed=seed, deliveries=DELIVERIES)
    async with a_sink() as sink, a_sink() as other, a_proxy(sink.url) as proxy:
        says_thanks(sink)
        proxy.choose = lambda: rng.choice([*FAULTS]) if rng.random() < SHARE_OF_FAULTS else FAIR
        more = 'on = ["*"]\nconcurrency = 8\nretry = ["100ms"]'
        routes = a_route("faulty", f"http://127.0.0.1:{proxy.port}/hook", extra=more)
        routes += a_webhook_route(other, name="untouched", extra='on = ["*"]')
        async with a_receiver(tmp_path, a_config("http://127.0.0.1:9", more=TRUSTING + routes)) as receiver:
            over = asyncio.Event()
            releasing = asyncio.create_task(release_when_held(receiver, over))
            await pushed(receiver, ["succeed"] * DELIVERIES)
            await all_delivered(receiver, within=120 + DELIVERIES)
            over.set()
            releases = await releasing
            assert await receiver.stop() == 0
            story = receiver.rows(STORY)

        events = {event for (event,) in receiver.rows("SELECT id FROM events WHERE type = 'task.succeed'")}
        untrue = [each for each in story if each[1] == "faulty" and not is_true(proxy, each)]
        tell(
            attempts=len(story) - DELIVERIES,
            failed=sum(outcome == "failed" for _, _, _, outcome, _ in story),
            with_an_untrue_reason=len(untrue),
            undelivered=len(events - sink.received.keys()),
            held_and_released=releases,
        )
        assert untrue == []
        assert events <= sink.received.keys() == other.received.keys()
        assert {len(ids) for ids in proxy.ids.values()} == {1}
        assert all(body == bodies[0] for bodies in sink.received.values() for body in bodies)
        assert {row[2:4] for row in story if row[1] == "untouched"} == {(1, "accepted")}


def is_true(proxy: Proxy, attempt: tuple[str, str, int, str, str]) -> bool:
    """Tell whether what is kept of an attempt is what the proxy did to it."""
    delivery, _, number_, outcome, reason = attempt
    words = FAULTS.get(proxy.done.get((delivery, number_), "slammed"), "")
    return words == "" if outcome == "accepted" else reason != "" and told_truly(words, reason)


async def release_when_held(receiver: Receiver, over: asyncio.Event) -> int:
    """Be the operator, who knows better than to wait a minute for a probe; tell how often that was."""
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
