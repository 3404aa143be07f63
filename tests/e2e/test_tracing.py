"""A running service exports traces: one for each submit, through restarts, and nothing of it stops the service."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.http_client import plain_http
from harness.otlp_collector import OtlpCollector
from harness.running_service import (
    a_config,
    a_kling,
    a_push_body,
    a_receiver,
    a_recording_server,
    a_sink,
    a_webhook_route,
    submit_task,
    wait_for_state,
)
from harness.waiting import wait_until

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{CALLER}-01"
NEVER = '[callbacks]\nverify = "never"\n'


@pytest.fixture
def collector() -> Iterator[OtlpCollector]:
    with OtlpCollector() as collector:
        collector.answer = b""
        yield collector


def a_tracing_script(folder: Path) -> str:
    script = folder / "trace.sh"
    script.write_text(f'#!/bin/sh\necho "$TRACEPARENT" >> {folder}/traced\n')
    script.chmod(0o755)
    return f'[[routes]]\nname = "script"\nscript = {{ command = ["{script}"] }}\n'


async def wait_for_another_export(collector: OtlpCollector) -> None:
    before = len(collector.bodies)
    await wait_until(lambda: len(collector.bodies) > before)


async def call_back(url: str) -> None:
    async with plain_http() as client:
        answer = await client.post(url, content=a_push_body("succeed", task_id="8672"))
    assert answer.status_code == 200, answer.text


async def test_a_submit_is_one_trace_that_a_later_process_continues(tmp_path: Path, collector: OtlpCollector) -> None:
    async with a_recording_server() as (kling, url), a_sink() as sink:
        more = NEVER + a_webhook_route(sink) + a_tracing_script(tmp_path)
        async with a_receiver(tmp_path, a_config(url, more=more), environ=collector.environ()) as receiver:
            async with receiver.client() as client:
                client.headers["traceparent"] = TRACEPARENT
                task = await submit_task(client)
            callback_url = json.loads(kling.bodies[0])["callback_url"]
            await receiver.restart()
            await call_back(callback_url)
            await wait_until(lambda: bool(sink.headers) and (tmp_path / "traced").exists())
            assert await receiver.stop() == 0
            log = receiver.log()

    (submit,), (create,), (callback,) = (collector.named(name) for name in ("submit", "kling.create", "callback"))
    attempts = {span.attributes["route"]: span for span in collector.named("delivery.attempt")}
    assert (submit.trace, submit.parent, submit.service) == (TRACE, CALLER, "kling-receiver")
    assert (create.trace, create.parent, create.attributes["task"]) == (TRACE, submit.id, task["id"])
    assert {span.trace for span in attempts.values()} == {TRACE}
    assert (attempts["hook"].parent, attempts["hook"].attributes["code"]) == (submit.id, 204)
    assert callback.trace != TRACE
    assert (callback.links, callback.attributes["task"]) == ([TRACE], task["id"])
    assert {span.trace for span in collector.named("commit")} == {TRACE, callback.trace}
    assert kling.requests[0].headers["traceparent"] == f"00-{TRACE}-{create.id}-01"
    assert sink.headers[0]["traceparent"] == f"00-{TRACE}-{attempts['hook'].id}-01"
    assert (tmp_path / "traced").read_text().split() == [f"00-{TRACE}-{attempts['script'].id}-01"]
    token = callback_url.rpartition("/")[2]
    assert token not in f"{collector.bodies}{log}"


async def test_a_confirmation_and_a_download_are_in_the_trace(tmp_path: Path, collector: OtlpCollector) -> None:
    async with a_kling() as kling, a_sink() as sink:
        more = f'[archive]\ndir = "{tmp_path}/files"\n[network]\nallow = ["127.0.0.0/8"]\n' + a_webhook_route(sink)
        async with a_receiver(tmp_path, a_config(kling.url, more=more), environ=collector.environ()) as receiver:
            async with receiver.client() as client:
                task = await submit_task(client)
                await wait_for_state(client, task["id"], "succeed")
            await wait_until(lambda: bool(sink.headers))
            await receiver.stop()

    (submit,) = collector.named("submit")
    of_task = {span.name for span in collector.spans if span.trace == submit.trace}
    assert of_task >= {"submit", "commit", "kling.create", "confirm", "download", "delivery.attempt"}
    assert {span.trace for span in collector.named("download")} == {submit.trace}
    assert all(span.links == [submit.trace] for span in collector.named("callback"))


async def test_a_collector_that_hangs_stops_nothing(tmp_path: Path) -> None:
    with OtlpCollector(hangs=True) as hung:
        async with a_kling() as kling, a_sink() as sink:
            config = a_config(kling.url, more=a_webhook_route(sink))
            async with a_receiver(tmp_path, config, environ=hung.environ()) as receiver:
                async with receiver.client() as client:
                    task = await submit_task(client)
                    await wait_for_state(client, task["id"], "succeed")
                await wait_until(lambda: bool(sink.headers))
                assert await receiver.stop(seconds=15) == 0


async def test_a_collector_that_refuses_is_one_line_a_minute(tmp_path: Path, collector: OtlpCollector) -> None:
    collector.status = 400
    async with a_kling() as kling, a_receiver(tmp_path, a_config(kling.url), environ=collector.environ()) as receiver:
        async with receiver.client() as client:
            for _ in range(3):
                await submit_task(client)
                await wait_for_another_export(collector)
        await receiver.stop()
        complaints = [line for line in receiver.log().splitlines() if "opentelemetry" in line]

    assert len(complaints) == 1
    assert json.loads(complaints[0])["level"] in ("warning", "error")


async def test_without_the_variables_no_trace_is_made(tmp_path: Path) -> None:
    async with (
        a_recording_server() as (kling, url),
        a_sink() as sink,
        a_receiver(tmp_path, a_config(url, more=NEVER + a_webhook_route(sink))) as receiver,
    ):
        async with receiver.client() as client:
            client.headers["traceparent"] = TRACEPARENT
            await submit_task(client)
        await call_back(json.loads(kling.bodies[0])["callback_url"])
        await wait_until(lambda: bool(sink.headers))
        stored = receiver.rows("SELECT * FROM traces")

    assert "traceparent" not in kling.requests[0].headers
    assert "traceparent" not in sink.headers[0]
    assert stored == []
