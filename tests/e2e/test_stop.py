"""SIGTERM under load: accepted pushes are stored, work in flight is finished, and no client can delay the stop."""

import asyncio
import os
from pathlib import Path
from random import Random
from urllib.parse import urlsplit

import pytest
from chaos.parameters import env_int, fresh_seed
from harness.load import START_NUMBER, LoadGenerator, LoadReport, a_load_config, wait_until_delivered
from harness.raw_http import RawConnection, a_connection, http_request
from harness.running_service import a_config, a_push_body, a_receiver, a_sink, a_webhook_route, create_callback_url
from harness.soak_report import RecordCounts
from harness.waiting import wait_until

UNREACHABLE = "http://127.0.0.1:9"
TRUST_CALLBACKS = '[callbacks]\nverify = "never"\n'
STOPS = env_int("STOPS", 4)


@pytest.mark.soak("stopped under load", minutes=8)
@pytest.mark.timeout(120 + 40 * STOPS)
async def test_stops_under_load_lose_nothing_and_deliver_nothing_twice(
    tmp_path: Path, record_counts: RecordCounts
) -> None:
    seed = fresh_seed()
    rng = Random(seed)
    record_counts(seed=seed, stops=STOPS)
    async with (
        a_sink() as sink,
        a_receiver(tmp_path, a_load_config(sink), environ={START_NUMBER: "0"}) as receiver,
    ):
        sink.answer = lambda: _respond_soon(rng)
        load, stop = LoadGenerator(receiver), asyncio.Event()
        calling = asyncio.create_task(load.run(stop))

        for life in range(1, STOPS + 1):
            enough = len(load.acknowledged) + 200
            await wait_until(lambda enough=enough: len(load.acknowledged) >= enough)  # type: ignore[misc]  # bound at definition
            assert await receiver.stop() == 0
            receiver.environ[START_NUMBER] = str(life)
            await receiver.start()
        stop.set()
        await calling
        await wait_until_delivered(receiver)
        assert await receiver.stop() == 0

        report = LoadReport.from_run(load, sink)
        record_counts(
            callbacks_acknowledged=report.acknowledged,
            of_them_lost=report.lost,
            events_undelivered=report.undelivered,
            sent_twice=report.duplicates_within_run + report.redeliveries.total(),
            answers=load.statuses,
        )
        assert report.acknowledged >= STOPS * 200
        assert (report.lost, report.undelivered, report.unknown) == (0, 0, 0)
        assert (report.duplicates_within_run, report.redeliveries.total()) == (0, 0)
        assert set(load.statuses) == {200, 201}
        assert len(receiver.log_entries("dispatch.draining")) >= 1


async def _respond_soon(rng: Random) -> int:
    """Delay the answer briefly, so that attempts are always in flight."""
    await asyncio.sleep(rng.uniform(0.0, 0.05))
    return 204


async def test_a_stop_finishes_the_attempt_in_flight_and_refuses_connections(tmp_path: Path) -> None:
    gate = asyncio.Event()
    async with a_sink() as sink:
        sink.answer = lambda: _respond_after(gate)
        async with a_receiver(
            tmp_path, a_config(UNREACHABLE, more=TRUST_CALLBACKS + a_webhook_route(sink))
        ) as receiver:
            async with receiver.client() as client:
                _, url = await create_callback_url(client)
            await http_request("POST", url, a_push_body("succeed"))
            await wait_until(lambda: len(sink.bodies) == 1)

            receiver.terminate()

            await wait_until(lambda: len(receiver.log_entries("listener.closed")) == 2)
            for address in (receiver.public, receiver.admin):
                with pytest.raises(ConnectionRefusedError):
                    await RawConnection.open(address)
            assert receiver.rows("SELECT status FROM deliveries") == [("pending",)]
            gate.set()
            assert await receiver.wait_for_exit() == 0
            assert receiver.rows("SELECT status, attempts FROM deliveries") == [("delivered", 1)]

            await receiver.start()
            assert await receiver.stop() == 0
            assert len(sink.bodies) == 1


@pytest.mark.parametrize("begun", [b"", b"POST "], ids=["connected", "begun to ask"])
async def test_a_request_in_flight_is_answered_before_the_stop(tmp_path: Path, begun: bytes) -> None:
    async with a_sink() as sink, a_receiver(tmp_path, a_config(UNREACHABLE, more=a_webhook_route(sink))) as receiver:
        async with receiver.client() as client:
            _, url = await create_callback_url(client)
        async with a_connection(receiver.public) as early:
            early.writer.write(begun)
            assert (
                await http_request("GET", f"{receiver.public}/healthz")
            ).status == 200  # so the request before it has arrived

            receiver.terminate()
            await wait_until(lambda: _is_closed(receiver.public))
            body = a_push_body("processing")
            head = (
                f"{urlsplit(url).path} HTTP/1.1\r\nhost: {urlsplit(url).netloc}\r\ncontent-length: {len(body)}\r\n\r\n"
            )
            early.writer.write(b"POST "[len(begun) :] + head.encode() + body)
            answer = await early.read_response()

        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert await receiver.wait_for_exit() == 0
        assert receiver.rows("SELECT UNPACK(body) FROM whole_pushes") == [(body,)]


async def _is_closed(address: str) -> bool:
    try:
        connection = await RawConnection.open(address)
    except ConnectionRefusedError:
        return True
    connection.abort()
    return False


async def _respond_after(gate: asyncio.Event) -> int:
    await gate.wait()
    return 204


async def test_idle_connections_do_not_delay_a_stop(tmp_path: Path) -> None:
    async with (
        a_receiver(tmp_path, a_config(UNREACHABLE)) as receiver,
        a_connection(receiver.public),
        a_connection(receiver.public) as half_a_head,
        a_connection(receiver.public) as half_a_body,
        a_connection(receiver.public) as idle,
        a_connection(receiver.admin),
        a_connection(receiver.admin) as listening,
    ):
        half_a_head.writer.write(b"POST /callbacks/x HTTP/1.1\r\nhost: ")
        half_a_body.send_request("POST", "/callbacks/x", b"{", {"content-length": "100"})
        assert (await idle.request("GET", "/healthz")).status == 200
        listening.send_request("GET", "/api/stream", headers={"authorization": f"Bearer {receiver.token}"})
        assert await listening.reader.readline() == b"HTTP/1.1 200 OK\r\n"

        assert await receiver.stop(seconds=15) == 0


async def test_an_attempt_over_the_grace_period_is_repeated_after_the_start(
    tmp_path: Path,
) -> None:
    script = tmp_path / "endless.sh"
    script.write_text("#!/bin/sh\n[ -e again ] && exit 0\ntouch again\necho $$ > pid\nexec sleep 600\n")
    script.chmod(0o755)
    route = f'[[routes]]\nname = "endless"\nscript = {{ command = ["{script}"], cwd = "{tmp_path}" }}\n'
    async with a_receiver(tmp_path, a_config(UNREACHABLE, more=TRUST_CALLBACKS + route)) as receiver:
        async with receiver.client() as client:
            _, url = await create_callback_url(client)
        await http_request("POST", url, a_push_body("succeed"))
        await wait_until((tmp_path / "pid").exists)

        assert await receiver.stop(seconds=40) == 0

        with pytest.raises(ProcessLookupError):
            os.kill(int((tmp_path / "pid").read_text()), 0)
        assert receiver.rows("SELECT status, attempts, claim FROM deliveries") == [("pending", 0, None)]
        await receiver.start()
        await wait_until(lambda: receiver.rows("SELECT status, attempts FROM deliveries") == [("delivered", 1)])
