"""One good callback among 63 bad ones of the same moment is stored, answered and delivered as if it came alone."""

import asyncio
import contextlib
import gzip
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from urllib.parse import urlsplit

from chaos.parameters import fresh_seed
from data.malformed_bodies import BadBody, a_bad_body
from harness.raw_http import a_connection, http_request
from harness.running_service import (
    Receiver,
    a_config,
    a_push_body,
    a_receiver,
    a_sink,
    a_webhook_route,
    create_callback_url,
)
from harness.soak_report import RecordCounts
from harness.waiting import wait_until

NEVER = '[callbacks]\nverify = "never"\n'
GOOD = a_push_body("succeed", task_id="the-good-one")
HEADERS: Mapping[str, Mapping[str, str]] = {
    "a coding in odd case": {"CoNtEnT-EnCoDiNg": "GZip"},
    "a large head": {"x-large": "a" * 15_000},
    "many fields": {f"x-{number}": "1" for number in range(95)},
    "bytes that are no ASCII": {"x-odd": "\xff\xfe"},
    "another host": {"host": "evil.example"},
}
BODIES = {
    "slow to parse": b'{"task_status":"processing","x":[' + b"{}," * 4500 + b"{}]}",
    "too many tokens": b'{"x":[' + b",".join([b"[]"] * 5000) + b"]}",
    "slow to search": b'{"x":"' + b"callbacks/" * 1500 + b'"}',
    "an id that others have": GOOD,
    "two states": b'{"task_status":"succeed","task_status":"failed"}',
}


def bad_callbacks(rng: Random) -> list[BadBody]:
    """Make 62 callbacks, each of which is bad or odd in another way."""
    odd = [BadBody(kind=kind, body=gzip.compress(GOOD), headers=headers) for kind, headers in HEADERS.items()]
    odd += [BadBody(kind=kind, body=body) for kind, body in BODIES.items()]
    made = [*odd, *(a_bad_body(rng) for _ in range(62 - len(odd)))]
    rng.shuffle(made)
    return made


async def send_together(receiver: Receiver, sent: Sequence[tuple[str, bytes, Mapping[str, str]]]) -> Mapping[str, int]:
    """Send callbacks at the same moment, each on a connection of its own. Return the status by URL."""
    async with contextlib.AsyncExitStack() as stack:
        connections = [await stack.enter_async_context(a_connection(receiver.public)) for _ in sent]
        for connection, (url, body, headers) in zip(connections, sent, strict=True):
            connection.send_request("POST", urlsplit(url).path, body, headers)
        answers = await asyncio.gather(*(each.read_response() for each in connections))
    return {url: answer.status for (url, *_), answer in zip(sent, answers, strict=True)}


async def test_a_good_callback_is_accepted_among_63_concurrent_bad_ones(
    tmp_path: Path, record_counts: RecordCounts
) -> None:
    seed = fresh_seed()
    record_counts(seed=seed)
    bad, rng = bad_callbacks(Random(seed)), Random(seed)
    async with a_sink() as sink:
        config = a_config("http://127.0.0.1:9", more=NEVER + a_webhook_route(sink))
        async with a_receiver(tmp_path, config) as receiver, receiver.client() as client:
            made = [await create_callback_url(client) for _ in range(64)]
            (good_task, good_url), (revoked_task, revoked), *others = made
            await client.post(f"/api/callback-urls/{revoked_task['id']}/revoke")
            sent = [(url, each.body, each.headers) for (_, url), each in zip(others, bad, strict=True)]
            sent.append((revoked, GOOD, {}))
            sent.insert(rng.randrange(64), (good_url, GOOD, {}))

            statuses = await send_together(receiver, sent)

            assert (statuses[good_url], statuses[revoked]) == (200, 404)
            assert set(statuses.values()) <= {200, 400, 404, 413, 415, 421}
            await wait_until(lambda: good_task["id"].encode() in b"".join(sink.bodies))
            accepted = receiver.log_entries("callback.accepted")
            assert len(accepted) == list(statuses.values()).count(200)
            assert len({line["request"] for line in accepted}) == len(accepted)
            assert receiver.log_entries("callback.failed") == []
            assert [url for _, url in made if url.rpartition("/")[2] in receiver.log()] == []
            assert (await http_request("POST", good_url, GOOD)).status == 200
