"""The service on PostgreSQL: the whole path with kill -9 in the middle, and a server that restarts or starts late."""

import asyncio
import signal
from pathlib import Path

import httpx2
import pytest
from harness.ports import free_port
from harness.postgres import PASSWORD, PostgresServer, shared_server
from harness.raw_http import http_request
from harness.running_service import (
    Receiver,
    a_config,
    a_kling,
    a_push_body,
    a_receiver,
    a_sink,
    a_webhook_route,
    create_callback_url,
    submit_task,
    wait_for_state,
)
from harness.tcp_proxy import a_tcp_proxy
from harness.waiting import wait_until

ENVIRON = {"PGPASSWORD_OF_TESTS": PASSWORD}


def on_postgres(url: str) -> str:
    return f'[store]\nurl = "{url}"\npassword = "env:PGPASSWORD_OF_TESTS"\n'


async def test_the_whole_path_survives_kill_9(tmp_path: Path, postgres: PostgresServer, postgres_database: str) -> None:
    store = on_postgres(postgres.tcp_url(postgres_database))
    async with a_kling(processing_for="300ms") as kling, a_sink() as sink:
        config = a_config(kling.url, more=a_webhook_route(sink) + store)
        async with a_receiver(tmp_path, config, environ=ENVIRON) as receiver, receiver.client() as client:
            tasks = [(await submit_task(client))["id"] for _ in range(4)]
            receiver.kill()
            await receiver.start()
            tasks += [(await submit_task(client))["id"] for _ in range(2)]
            ended = [await wait_for_state(client, task, "succeed", seconds=30) for task in tasks]
            await wait_until(lambda: sink.types.count("task.succeed") >= len(tasks))

            assert len({task["id"] for task in ended}) == 6
            delivered = [body["data"]["task"]["id"] for bodies in sink.received.values() for body in bodies[:1]]
            assert sorted(set(delivered)) == sorted(tasks)
            assert PASSWORD not in receiver.log()
            assert await receiver.stop() == 0


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT], ids=["fast", "immediate"])
async def test_a_restart_of_the_server_needs_no_restart_of_the_service(tmp_path: Path, how: signal.Signals) -> None:
    (tmp_path / "server").mkdir()
    with shared_server(tmp_path / "server") as server:
        database = await server.create_database()
        async with a_kling() as kling, a_sink() as sink:
            config = a_config(kling.url, more=a_webhook_route(sink) + on_postgres(server.tcp_url(database)))
            async with a_receiver(tmp_path, config, environ=ENVIRON) as receiver, receiver.client() as client:
                before, url = await create_callback_url(client)
                server.stop(how)
                answers = await _push_until_accepted(url, a_push_body("succeed"))

                await wait_for_state(client, before["id"], "succeed")
                await wait_for_state(client, (await submit_task(client))["id"], "succeed")
                await wait_until(lambda: "task.succeed" in sink.types)

                assert set(answers) <= {200, 503}
                assert receiver.log_entries("service.failed") == []
                assert await receiver.stop() == 0


async def _push_until_accepted(url: str, body: bytes) -> list[int]:
    """Send a callback every 0.2 s until it is acknowledged; return the statuses."""
    answers: list[int] = []
    async with asyncio.timeout(20):
        while 200 not in answers:
            try:
                answers.append((await http_request("POST", url, body=body)).status)
            except (OSError, httpx2.HTTPError):
                answers.append(0)
            await asyncio.sleep(0.2)
    return answers


async def test_the_service_starts_when_its_server_does(
    tmp_path: Path, postgres: PostgresServer, postgres_database: str
) -> None:
    port = free_port()
    store = on_postgres(postgres.tcp_url(postgres_database, port=port))
    receiver = Receiver(tmp_path, a_config("http://127.0.0.1:9", more=store), environ=ENVIRON)
    receiver.spawn()
    try:
        await wait_until(lambda: bool(receiver.log_entries("service.waiting_for_store")))
        await wait_until(lambda: is_refused(receiver))

        async with a_tcp_proxy(postgres.port, listen=port):
            await receiver.wait_until_ready(seconds=30)
            assert await receiver.stop() == 0
    finally:
        if receiver.process is not None and receiver.process.poll() is None:
            receiver.kill()


async def is_refused(receiver: Receiver) -> bool:
    """Return whether the receiver answers that it is not ready."""
    try:
        return (await http_request("GET", f"{receiver.admin}/readyz")).status == 503
    except OSError:  # it does not listen yet
        return False
