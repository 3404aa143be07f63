"""Every bad request gets its documented answer, and the next good push is accepted."""

import asyncio
from collections import Counter
from pathlib import Path
from random import Random

import pytest
from chaos.parameters import env_int, fresh_seed
from data.malformed_bodies import GZIP_BOMB, a_bad_body
from harness.raw_http import a_connection, http_request
from harness.running_service import (
    ENDPOINT,
    Receiver,
    a_config,
    a_push_body,
    a_receiver,
    create_callback_url,
    submit_task,
    wait_for_state,
)
from harness.soak_report import RecordCounts
from harness.waiting import wait_until
from harness.whole_service import a_whole_service

BODIES = env_int("BODIES", 10_000)
CLIENT_COUNT, TASKS = 8, 100
SMALL = '[callbacks]\nmax_body = "64KiB"\n'


async def test_each_kind_of_bad_request_gets_its_documented_answer(tmp_path: Path) -> None:
    async with (
        a_receiver(tmp_path, a_config("http://127.0.0.1:9", more=SMALL)) as receiver,
        receiver.client() as client,
    ):
        _, url = await create_callback_url(client)
        path = url.removeprefix(receiver.public)
        limit = 64 * 1024
        padded = a_push_body("processing")[:-1] + b" " * (limit - len(a_push_body("processing"))) + b"}"
        requests = [
            ("POST", path, padded + b" ", {}, 413),
            ("POST", path, b"", {"content-length": "99999999999"}, 413),
            ("POST", path, b"[1]", {}, 400),
            ("POST", path, b"hello", {}, 400),
            ("POST", path, b"", {}, 400),
            ("POST", path, GZIP_BOMB, {}, 400),
            ("POST", path, GZIP_BOMB, {"content-encoding": "gzip"}, 400),
            ("POST", path, GZIP_BOMB, {"content-encoding": "br"}, 415),
            ("GET", path, b"", {}, 405),
            ("PUT", path, a_push_body("succeed"), {}, 405),
            ("POST", "/callbacks/" + "x" * 43, a_push_body("succeed"), {}, 404),
            ("POST", "/callbacks/", a_push_body("succeed"), {}, 404),
            ("POST", path + "/more", a_push_body("succeed"), {}, 404),
            ("POST", "/", b"{}", {}, 404),
            ("GET", "/api/tasks", b"", {}, 404),
            ("GET", "/kling/v1/images/generations", b"", {}, 404),
            ("GET", "/metrics", b"", {}, 404),
            ("POST", "/healthz", b"", {}, 405),
            ("POST", path, b'{"word":"never heard of"}', {}, 200),
            ("POST", path, padded, {}, 200),
        ]

        for method, target, body, headers, status in requests:
            answer = await request_status(receiver, method, target, body, headers)
            assert answer == status, (method, target, body[:40], headers)

        assert receiver.rows("SELECT count(*) FROM pushes") == [(2,)]


async def request_status(receiver: Receiver, method: str, path: str, body: bytes, headers: dict[str, str]) -> int:
    async with a_connection(receiver.public) as connection:
        return (await connection.request(method, path, body, headers)).status


async def test_unknown_revoked_and_expired_tokens_get_the_same_404(tmp_path: Path) -> None:
    brief = '[callbacks]\nexpire_after = "1s"\n'
    async with a_receiver(tmp_path, a_config("http://127.0.0.1:9", more=brief)) as receiver:
        async with receiver.client() as client:
            _, expired = await create_callback_url(client)
        await receiver.restart(a_config("http://127.0.0.1:9"))
        async with receiver.client() as client:
            task, revoked = await create_callback_url(client)
            assert (await http_request("POST", revoked, a_push_body("processing"))).status == 200
            assert (await client.post(f"/api/callback-urls/{task['id']}/revoke")).status_code == 200
        unknown = f"{receiver.public}/callbacks/{'x' * 43}"

        async def is_expired() -> bool:
            return (await http_request("POST", expired, a_push_body("processing"))).status == 404

        await wait_until(is_expired)
        answers = [await http_request("POST", url, a_push_body("succeed")) for url in (unknown, revoked, expired)]

        for answer in answers:
            del answer.headers["date"]
        assert answers[0].status == 404
        assert answers == [answers[0]] * 3


@pytest.mark.soak("malformed callbacks", minutes=3)
async def test_thousands_of_malformed_bodies_are_refused_and_break_nothing(
    tmp_path: Path, record_counts: RecordCounts
) -> None:
    seed = fresh_seed()
    rng, answers = Random(seed), Counter[tuple[str, int]]()
    record_counts(seed=seed)
    async with a_whole_service(tmp_path, more=SMALL, route='on = ["*"]\nunverified = true') as whole:
        sink, _, receiver, client = whole
        known = [{"endpoint": ENDPOINT}, {}]
        urls = [(await create_callback_url(client, **known[each % 2]))[1] for each in range(TASKS)]
        process = receiver.process

        await asyncio.gather(
            *(_post_bad_bodies(receiver, urls, Random(rng.random()), answers) for _ in range(CLIENT_COUNT))
        )

        statuses = Counter(status for _, status in answers.elements())
        record_counts(bodies=answers.total(), kinds=len({kind for kind, _ in answers}), answers=statuses)
        assert answers.total() == BODIES // CLIENT_COUNT * CLIENT_COUNT
        assert {status for _, status in answers} == {200, 400, 413, 415}
        assert process is not None
        assert process.poll() is None
        assert receiver.log_entries("callback.failed") == []
        task = await submit_task(client)
        await wait_for_state(client, task["id"], "succeed")
        events = receiver.rows("SELECT id FROM events WHERE task_id = ?", task["id"])
        await wait_until(lambda: all(id_ in sink.received for (id_,) in events))
        await wait_until(lambda: receiver.rows("SELECT count(*) FROM deliveries WHERE status = 'pending'") == [(0,)])
        assert await receiver.stop() == 0


async def _post_bad_bodies(receiver: Receiver, urls: list[str], rng: Random, answers: Counter[tuple[str, int]]) -> None:
    """Post bad bodies one after another, on as few connections as the server allows."""
    left = BODIES // CLIENT_COUNT
    while left:
        async with a_connection(receiver.public) as connection:
            while left:
                bad, path = a_bad_body(rng), rng.choice(urls).removeprefix(receiver.public)
                answer = await connection.request("POST", path, bad.body, bad.headers)
                answers[bad.kind, answer.status] += 1
                left -= 1
                if answer.headers.get("connection") == "close":
                    break
