"""SIGTERM under load: what was taken in is kept, what is under way is finished, nobody can hold the process up."""

import asyncio
import os
from pathlib import Path
from random import Random
from urllib.parse import urlsplit

import pytest
from chaos.parameters import fresh_seed, number
from harness.load import LIFE, Audit, Traffic, a_config_for_traffic
from harness.raw_http import Wire, a_wire, ask
from harness.running_service import a_config, a_push, a_receiver, a_sink, a_webhook_route, minted
from harness.soak_report import Tell
from harness.support import until

NOWHERE = "http://127.0.0.1:9"
TRUSTING = '[callbacks]\nverify = "never"\n'
STOPS = number("STOPS", 4)


@pytest.mark.soak("stopped under load", minutes=8)
@pytest.mark.timeout(120 + 10 * STOPS)
async def test_stops_under_load_lose_nothing_deliver_nothing_twice_and_answer_no_error(
    tmp_path: Path, tell: Tell
) -> None:
    seed = fresh_seed()
    rng = Random(seed)
    tell(seed=seed, stops=STOPS)
    async with (
        a_sink() as sink,
        a_receiver(tmp_path, a_config_for_traffic(sink), environ={LIFE: "0"}) as receiver,
    ):
        sink.answer = lambda: _soon(rng)
        traffic, stop = Traffic(receiver), asyncio.Event()
        calling = asyncio.create_task(traffic.run(stop))

        for life in range(1, STOPS + 1):
            enough = len(traffic.promised) + 200
            await until(lambda enough=enough: len(traffic.promised) >= enough, within=30)  # type: ignore[misc]  # bound now
            assert await receiver.stop() == 0
            receiver.environ[LIFE] = str(life)
            await receiver.start()
        stop.set()
        await calling
        await until(lambda: receiver.rows("SELECT count(*) FROM deliveries WHERE status <> 'delivered'") == [(0,)])
        assert await receiver.stop() == 0

        audit = Audit.of(traffic, sink)
        tell(
            callbacks_acknowledged=audit.promised,
            of_them_lost=audit.lost,
            events_undelivered=audit.undelivered,
            sent_twice=audit.twice_in_one_life + audit.again.total(),
            answers=traffic.statuses,
        )
        assert audit.promised >= STOPS * 200
        assert (audit.lost, audit.undelivered, audit.unknown) == (0, 0, 0)
        assert (audit.twice_in_one_life, audit.again.total()) == (0, 0)
        assert set(traffic.statuses) == {200, 201}
        assert len(receiver.said("dispatch.draining")) >= 1


async def _soon(rng: Random) -> int:
    """Take a moment, so that attempts are always under way."""
    await asyncio.sleep(rng.uniform(0.0, 0.05))
    return 204


async def test_a_stop_lets_the_attempt_under_way_end_while_new_connections_are_refused(tmp_path: Path) -> None:
    gate = asyncio.Event()
    async with a_sink() as sink:
        sink.answer = lambda: _after(gate)
        async with a_receiver(tmp_path, a_config(NOWHERE, more=TRUSTING + a_webhook_route(sink))) as receiver:
            async with receiver.client() as client:
                _, url = await minted(client)
            await ask("POST", url, a_push("succeed"))
            await until(lambda: len(sink.bodies) == 1)

            receiver.terminate()

            await until(lambda: len(receiver.said("listener.closed")) == 2)
            for address in (receiver.public, receiver.admin):
                with pytest.raises(ConnectionRefusedError):
                    await Wire.open(address)
            assert receiver.rows("SELECT status FROM deliveries") == [("pending",)]
            gate.set()
            assert await receiver.exit_code() == 0
            assert receiver.rows("SELECT status, attempts FROM deliveries") == [("delivered", 1)]

            await receiver.start()
            assert await receiver.stop() == 0
            assert len(sink.bodies) == 1


@pytest.mark.parametrize("begun", [b"", b"POST "], ids=["connected", "begun to ask"])
async def test_who_has_only_just_come_is_heard_before_the_stop(tmp_path: Path, begun: bytes) -> None:
    async with a_sink() as sink, a_receiver(tmp_path, a_config(NOWHERE, more=a_webhook_route(sink))) as receiver:
        async with receiver.client() as client:
            _, url = await minted(client)
        async with a_wire(receiver.public) as early:
            early.writer.write(begun)
            assert (await ask("GET", f"{receiver.public}/healthz")).status == 200  # so the one before has come in

            receiver.terminate()
            await until(lambda: _is_closed(receiver.public))
            body = a_push("processing")
            head = (
                f"{urlsplit(url).path} HTTP/1.1\r\nhost: {urlsplit(url).netloc}\r\ncontent-length: {len(body)}\r\n\r\n"
            )
            early.writer.write(b"POST "[len(begun) :] + head.encode() + body)
            answer = await early.read()

        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert await receiver.exit_code() == 0
        assert receiver.rows("SELECT body FROM pushes") == [(body,)]


async def _is_closed(address: str) -> bool:
    try:
        wire = await Wire.open(address)
    except ConnectionRefusedError:
        return True
    wire.cut()
    return False


async def _after(gate: asyncio.Event) -> int:
    await gate.wait()
    return 204


async def test_nobody_who_only_holds_a_connection_holds_up_a_stop(tmp_path: Path) -> None:
    async with (
        a_receiver(tmp_path, a_config(NOWHERE)) as receiver,
        a_wire(receiver.public),
        a_wire(receiver.public) as half_a_head,
        a_wire(receiver.public) as half_a_body,
        a_wire(receiver.public) as idle,
        a_wire(receiver.admin),
        a_wire(receiver.admin) as listening,
    ):
        half_a_head.writer.write(b"POST /callbacks/x HTTP/1.1\r\nhost: ")
        half_a_body.write("POST", "/callbacks/x", b"{", {"content-length": "100"})
        assert (await idle.ask("GET", "/healthz")).status == 200
        listening.write("GET", "/api/stream", headers={"authorization": f"Bearer {receiver.token}"})
        assert await listening.reader.readline() == b"HTTP/1.1 200 OK\r\n"

        assert await receiver.stop(within=15) == 0


async def test_an_attempt_that_outlasts_the_grace_is_given_back_and_made_again_at_the_next_start(
    tmp_path: Path,
) -> None:
    script = tmp_path / "endless.sh"
    script.write_text("#!/bin/sh\n[ -e again ] && exit 0\ntouch again\necho $$ > pid\nexec sleep 600\n")
    script.chmod(0o755)
    route = f'[[routes]]\nname = "endless"\nscript = {{ command = ["{script}"], cwd = "{tmp_path}" }}\n'
    async with a_receiver(tmp_path, a_config(NOWHERE, more=TRUSTING + route)) as receiver:
        async with receiver.client() as client:
            _, url = await minted(client)
        await ask("POST", url, a_push("succeed"))
        await until((tmp_path / "pid").exists)

        assert await receiver.stop(within=40) == 0

        with pytest.raises(ProcessLookupError):
            os.kill(int((tmp_path / "pid").read_text()), 0)
        assert receiver.rows("SELECT status, attempts, claim FROM deliveries") == [("pending", 0, None)]
        await receiver.start()
        await until(lambda: receiver.rows("SELECT status, attempts FROM deliveries") == [("delivered", 1)])
