"""Probes of the public URL: answered once, with digests that only this service can compute, and nothing is stored."""

from datetime import timedelta

import pytest
from harness.clock import FakeClock
from harness.fake_inbox import TOKEN, FakeInbox
from harness.http_client import plain_http
from harness.web_app import Serve, WebApp

from receiver.domain.secret import Secret
from receiver.web.callbacks import public_app
from receiver.web.probes import LIFETIME, ProbeRegistry, digest, signature_lines

BODY = b'{"probe": 1}'
HEADERS = {"webhook-id": "a", "webhook-timestamp": "1", "webhook-signature": "v1,b"}


async def test_a_probe_is_answered_once_with_digests_of_what_arrived(web: WebApp) -> None:
    probe = (await web.client.post("/api/probes")).json()
    url = f"http://{web.public}/callbacks/{probe['token']}"

    async with plain_http() as client:
        first = await client.post(url, content=BODY, headers=HEADERS)
        second = await client.post(url, content=BODY, headers=HEADERS)

    secret = Secret(probe["secret"])
    assert first.json() == {
        "ok": True,
        "probe": {
            "bytes": len(BODY),
            "body": digest(secret, BODY),
            "signature_headers": digest(secret, signature_lines(HEADERS)),
        },
    }
    assert probe["token"] not in first.text
    assert second.status_code == 404
    assert (await web.store.catalog.tasks()).items == []


async def test_a_probe_needs_the_admin_token(web: WebApp) -> None:
    async with plain_http(base_url=f"http://{web.admin}") as client:
        assert (await client.post("/api/probes")).status_code == 401


def test_a_probe_expires() -> None:
    clock = FakeClock()
    registry = ProbeRegistry(clock=clock)
    first, second = registry.register(), registry.register()

    clock.advance(LIFETIME - timedelta(seconds=1))
    assert registry.take(first.token.reveal()) == first
    clock.advance(timedelta(seconds=1))
    assert registry.take(second.token.reveal()) is None


def test_nodes_with_the_same_admin_token_answer_each_others_probes() -> None:
    registries = [ProbeRegistry(clock=FakeClock()) for _ in range(3)]
    for registry, token in zip(registries, ("same", "same", "other"), strict=True):
        registry.share(Secret(token))
    probe = registries[0].register()

    assert registries[2].take(probe.token.reveal()) is None
    assert registries[1].take(probe.token.reveal()) == probe


@pytest.mark.parametrize("token", ["", "x", "x" * 43, "\u00e9" * 43, "A" * 42 + "=", "A" * 1000])
def test_an_invented_token_is_not_a_probe(token: str) -> None:
    registry = ProbeRegistry(clock=FakeClock())
    registry.share(Secret("token"))

    assert registry.take(token) is None
    changed = registry.register().token.reveal()
    assert registry.take(("B" if changed[0] == "A" else "A") + changed[1:]) is None


def test_a_probe_is_answered_once_in_any_spelling_of_its_token() -> None:
    registry = ProbeRegistry(clock=FakeClock())
    probe = registry.register()
    token = probe.token.reveal()

    spellings = [f"!{token}", token, f"{token[:20]}!{token[20:]}", *(token[:-1] + last for last in "ABCD")]
    assert [registry.take(each) for each in spellings].count(probe) == 1


async def test_the_token_of_a_task_is_never_looked_up_as_a_probe(serve: Serve) -> None:
    class NoProbes(ProbeRegistry):
        def take(self, token: str) -> None:
            raise AssertionError(token)

    address = await serve(public_app(FakeInbox(), max_body=1000, probes=NoProbes(clock=FakeClock())))

    async with plain_http() as client:
        answer = await client.post(f"http://{address}/callbacks/{TOKEN}", content=BODY)

    assert answer.content == b'{"ok":true}'


async def test_a_probe_larger_than_a_callback_may_be_is_refused_like_one(serve: Serve) -> None:
    registry = ProbeRegistry(clock=FakeClock())
    address = await serve(public_app(FakeInbox(), max_body=1000, probes=registry))
    token = registry.register().token.reveal()

    async with plain_http() as client:
        answer = await client.post(f"http://{address}/callbacks/{token}", content=b"x" * 1001)

    assert answer.status_code == 413
