"""Whatever is posted, the answer is the one that is written down, and the next good push is taken."""

import asyncio
from collections import Counter
from pathlib import Path
from random import Random

import pytest
from chaos.parameters import fresh_seed, number
from data.malformed_bodies import BOMB, a_bad_body
from harness.raw_http import a_wire, ask
from harness.running_service import (
    ENDPOINT,
    Receiver,
    a_config,
    a_kling,
    a_push,
    a_receiver,
    a_sink,
    a_webhook_route,
    minted,
    submitted,
    task_in,
)
from harness.soak_report import Tell
from harness.support import until

BODIES = number("BODIES", 10_000)
CALLERS, TASKS = 8, 100
SMALL = '[callbacks]\nmax_body = "64KiB"\n'


async def test_each_kind_of_bad_request_gets_its_own_answer(tmp_path: Path) -> None:
    async with (
        a_receiver(tmp_path, a_config("http://127.0.0.1:9", more=SMALL)) as receiver,
        receiver.client() as client,
    ):
        _, url = await minted(client)
        path = url.removeprefix(receiver.public)
        limit = 64 * 1024
        padded = a_push("processing")[:-1] + b" " * (limit - len(a_push("processing"))) + b"}"
        asked = [
            ("POST", path, padded + b" ", {}, 413),
            ("POST", path, b"", {"content-length": "99999999999"}, 413),
            ("POST", path, b"[1]", {}, 400),
            ("POST", path, b"hello", {}, 400),
            ("POST", path, b"", {}, 400),
            ("POST", path, BOMB, {}, 400),
            ("POST", path, BOMB, {"content-encoding": "gzip"}, 415),
            ("GET", path, b"", {}, 405),
            ("PUT", path, a_push("succeed"), {}, 405),
            ("POST", "/callbacks/" + "x" * 43, a_push("succeed"), {}, 404),
            ("POST", "/callbacks/", a_push("succeed"), {}, 404),
            ("POST", path + "/more", a_push("succeed"), {}, 404),
            ("POST", "/", b"{}", {}, 404),
            ("GET", "/api/tasks", b"", {}, 404),
            ("GET", "/kling/v1/images/generations", b"", {}, 404),
            ("GET", "/metrics", b"", {}, 404),
            ("POST", "/healthz", b"", {}, 405),
            ("POST", path, b'{"word":"never heard of"}', {}, 200),
            ("POST", path, padded, {}, 200),
        ]

        for method, target, body, headers, status in asked:
            answer = await ask_at(receiver, method, target, body, headers)
            assert answer == status, (method, target, body[:40], headers)

        assert receiver.rows("SELECT count(*) FROM pushes") == [(2,)]


async def ask_at(receiver: Receiver, method: str, path: str, body: bytes, headers: dict[str, str]) -> int:
    async with a_wire(receiver.public) as wire:
        return (await wire.ask(method, path, body, headers)).status


async def test_an_unknown_a_revoked_and_an_expired_token_get_one_and_the_same_404(tmp_path: Path) -> None:
    brief = '[callbacks]\nexpire_after = "1s"\n'
    async with a_receiver(tmp_path, a_config("http://127.0.0.1:9", more=brief)) as receiver:
        async with receiver.client() as client:
            _, expired = await minted(client)
        await receiver.restart(a_config("http://127.0.0.1:9"))
        async with receiver.client() as client:
            task, revoked = await minted(client)
            assert (await ask("POST", revoked, a_push("processing"))).status == 200
            assert (await client.post(f"/api/callback-urls/{task['id']}/revoke")).status_code == 200
        unknown = f"{receiver.public}/callbacks/{'x' * 43}"

        async def is_expired() -> bool:
            return (await ask("POST", expired, a_push("processing"))).status == 404

        await until(is_expired)
        answers = [await ask("POST", url, a_push("succeed")) for url in (unknown, revoked, expired)]

        for answer in answers:
            del answer.headers["date"]
        assert answers[0].status == 404
        assert answers == [answers[0]] * 3


@pytest.mark.soak("malformed callbacks", minutes=3)
async def test_thousands_of_malformed_bodies_do_no_harm(tmp_path: Path, tell: Tell) -> None:
    seed = fresh_seed()
    rng, answers = Random(seed), Counter[tuple[str, int]]()
    tell(seed=seed)
    async with a_sink() as sink, a_kling() as kling:
        config = a_config(kling.url, more=SMALL + a_webhook_route(sink, extra='on = ["*"]\nunverified = true'))
        async with a_receiver(tmp_path, config) as receiver, receiver.client() as client:
            known = [{"endpoint": ENDPOINT}, {}]
            urls = [(await minted(client, **known[each % 2]))[1] for each in range(TASKS)]
            process = receiver.process

            await asyncio.gather(*(_pester(receiver, urls, Random(rng.random()), answers) for _ in range(CALLERS)))

            statuses = Counter(status for _, status in answers.elements())
            tell(bodies=answers.total(), kinds=len({kind for kind, _ in answers}), answers=statuses)
            assert answers.total() == BODIES // CALLERS * CALLERS
            assert {status for _, status in answers} == {200, 400, 413, 415}
            assert process is not None
            assert process.poll() is None
            assert receiver.said("callback.failed") == []
            task = await submitted(client)
            await task_in(client, task["id"], "succeed")
            told = receiver.rows("SELECT id FROM events WHERE task_id = ?", task["id"])
            await until(lambda: all(id_ in sink.received for (id_,) in told))
            await until(lambda: receiver.rows("SELECT count(*) FROM deliveries WHERE status = 'pending'") == [(0,)])
            assert await receiver.stop() == 0


async def _pester(receiver: Receiver, urls: list[str], rng: Random, answers: Counter[tuple[str, int]]) -> None:
    """Post one bad body after the other on as few connections as the other side allows."""
    left = BODIES // CALLERS
    while left:
        async with a_wire(receiver.public) as wire:
            while left:
                bad, path = a_bad_body(rng), rng.choice(urls).removeprefix(receiver.public)
                answer = await wire.ask("POST", path, bad.body, bad.headers)
                answers[bad.kind, answer.status] += 1
                left -= 1
                if answer.headers.get("connection") == "close":
                    break
