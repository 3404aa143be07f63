"""Where the real service connects to, for a client's URL and for an operator's: a trap on this machine counts."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx2
from data.ssrf_urls import FORBIDDEN, LOOPBACK_SPELLINGS, NOT_PUBLIC
from harness.fake_dns import fake_dns_environment
from harness.http_peers import http_peer, respond_with, response
from harness.running_service import (
    ENDPOINT,
    JOB,
    Receiver,
    a_config,
    a_kling,
    a_receiver,
    a_sink,
    a_webhook_route,
    submit_task,
)
from harness.waiting import wait_until

ROUTED_AT_ONCE = '[callbacks]\nverify = "never"\n'


@dataclass(slots=True)
class Trap:
    """Listens on every address of this machine and counts connections."""

    port: int = 0
    connections: int = 0

    async def accept(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        writer.transport.abort()


@contextlib.asynccontextmanager
async def a_trap() -> AsyncIterator[Trap]:
    trap = Trap()
    dual = socket.has_dualstack_ipv6()
    family, everywhere = (socket.AF_INET6, "::") if dual else (socket.AF_INET, "0.0.0.0")
    listening = socket.create_server((everywhere, 0), family=family, dualstack_ipv6=dual, backlog=512)
    trap.port = listening.getsockname()[1]
    server = await asyncio.start_server(trap.accept, sock=listening)
    try:
        yield trap
    finally:
        server.close()
        await asyncio.sleep(0)


async def create_with_callbacks(client: httpx2.AsyncClient, urls: Sequence[str]) -> None:
    """Create tasks through the gateway, one for each callback URL."""
    for url in urls:
        answer = await client.post(f"/kling/v1/{ENDPOINT}", json=JOB | {"callback_url": url})
        assert answer.json()["code"] == 0, (url, answer.text)


async def assert_refused_at_the_create(client: httpx2.AsyncClient, urls: Sequence[str]) -> None:
    """Create tasks with callback URLs that name an address; each is refused before Kling is called."""
    for url in urls:
        answer = await client.post(f"/kling/v1/{ENDPOINT}", json=JOB | {"callback_url": url})
        assert answer.status_code == 400, (url, answer.text)
        assert "is not public:" in answer.text or "never dialled" in answer.text, (url, answer.text)


ATTEMPTS = """
    SELECT tasks.reply_to, attempts.outcome, attempts.reason, attempts.code
    FROM attempts JOIN deliveries ON deliveries.id = attempts.delivery_id
    JOIN events ON events.id = deliveries.event_id
    JOIN tasks ON tasks.id = events.task_id
    WHERE tasks.reply_to IS NOT NULL
"""


async def wait_until_attempted(receiver: Receiver, urls: Sequence[str]) -> dict[str, list[tuple[str, str, int | None]]]:
    """Wait until each of *urls* was attempted. Return the outcomes."""
    await wait_until(lambda: {row[0] for row in receiver.rows(ATTEMPTS)} >= set(urls), seconds=60)
    made: dict[str, list[tuple[str, str, int | None]]] = {}
    for url, *rest in receiver.rows(ATTEMPTS):
        made.setdefault(url, []).append(tuple(rest))
    return made


def host_of(address: str) -> str:
    return f"[{address}]" if ":" in address else address


async def test_no_spelling_of_a_url_reaches_the_private_network(tmp_path: Path) -> None:
    names = {f"name-{number}.example": [address] for number, address in enumerate([*FORBIDDEN, *NOT_PUBLIC])}
    names["mixed.example"] = ["8.8.8.8 127.0.0.1"]
    environ = fake_dns_environment(tmp_path, names)
    async with (
        a_trap() as trap,
        a_kling() as kling,
        a_receiver(tmp_path, a_config(kling.url, more=ROUTED_AT_ONCE), environ=environ) as receiver,
        receiver.client() as client,
    ):
        literal = [f"http://{host_of(address)}:{trap.port}/hook" for address in [*FORBIDDEN, *NOT_PUBLIC]]
        spelt = [f"http://{host}:{trap.port}/hook" for host in LOOPBACK_SPELLINGS]
        named = [f"http://{name}:{trap.port}/hook" for name in names]
        assert len(literal + spelt + named) > 60

        await assert_refused_at_the_create(client, literal)
        assert kling.counts["created"] == 0
        await create_with_callbacks(client, named)
        for url in spelt:  # other spellings are refused at the create, or when their address is dialled
            await client.post(f"/kling/v1/{ENDPOINT}", json=JOB | {"callback_url": url})
        accepted = [row[0] for row in receiver.rows("SELECT reply_to FROM tasks WHERE reply_to IS NOT NULL")]
        made = await wait_until_attempted(receiver, accepted)

        assert trap.connections == 0
        assert set(accepted) >= set(named)
        assert {outcome for url in named for outcome, _, _ in made[url]} == {"failed"}
        for url in named:
            assert all("is not public:" in reason or "never dialled" in reason for _, reason, _ in made[url]), url


async def test_dns_rebinding_is_blocked(tmp_path: Path) -> None:
    environ = fake_dns_environment(tmp_path, {"rebinding.example": ["127.0.0.2", "127.0.0.1"]})
    allow = '[network]\nallow = ["127.0.0.2"]\n'
    async with (
        a_trap() as trap,
        a_kling() as kling,
        a_receiver(tmp_path, a_config(kling.url, more=ROUTED_AT_ONCE + allow), environ=environ) as receiver,
        receiver.client() as client,
    ):
        url = f"http://rebinding.example:{trap.port}/hook"

        await create_with_callbacks(client, [url])
        await wait_until(lambda: len(receiver.rows(ATTEMPTS)) >= 2)

        assert trap.connections == 1
        reasons = [reason for _, reason, _ in (await wait_until_attempted(receiver, [url]))[url]]
        assert len([reason for reason in reasons if "127.0.0.1 is not public: loopback" in reason]) >= 1


async def test_a_redirect_into_the_private_network_is_not_followed(tmp_path: Path) -> None:
    allow = '[network]\nallow = ["127.0.0.1"]\n'
    async with (
        a_trap() as trap,
        http_peer(respond_with(response(307, location=f"http://127.0.0.2:{trap.port}/"))) as outside,
        a_kling() as kling,
        a_receiver(tmp_path, a_config(kling.url, more=ROUTED_AT_ONCE + allow)) as receiver,
        receiver.client() as client,
    ):
        await create_with_callbacks(client, [f"{outside.url}/hook"])
        made = await wait_until_attempted(receiver, [f"{outside.url}/hook"])

        assert outside.connections >= 1
        assert trap.connections == 0
        assert {code for _, _, code in made[f"{outside.url}/hook"]} == {307}


async def test_allow_permits_its_networks_but_never_metadata(tmp_path: Path) -> None:
    wide = '["127.0.0.1", "169.0.0.0/8", "168.0.0.0/8", "100.64.0.0/10", "192.0.0.0/8", "fd00::/8", "64:ff9b::/96"]'
    async with (
        a_trap() as trap,
        a_sink(check_signatures=False) as sink,
        a_kling() as kling,
        a_receiver(tmp_path, a_config(kling.url, more=f"{ROUTED_AT_ONCE}[network]\nallow = {wide}\n")) as receiver,
        receiver.client() as client,
    ):
        never = [f"http://{host_of(address)}/latest" for address in FORBIDDEN]
        near = [f"http://127.0.0.2:{trap.port}/"]

        await create_with_callbacks(client, [sink.url])
        await assert_refused_at_the_create(client, [*near, *never])
        made = await wait_until_attempted(receiver, [sink.url])

        assert {outcome for outcome, _, _ in made[sink.url]} == {"accepted"}
        assert trap.connections == 0


async def test_an_operators_url_may_be_local_but_never_metadata(tmp_path: Path) -> None:
    routes = "".join(
        f'[[routes]]\nname = "{name}"\nwebhook = {{ url = "http://{host}/latest" }}\n'
        for name, host in {"number": "2852039166", "name": "inside.example"}.items()
    )
    environ = fake_dns_environment(tmp_path, {"inside.example": ["169.254.169.254"]})
    async with (
        a_sink() as sink,
        a_kling() as kling,
        a_receiver(
            tmp_path, a_config(kling.url, more=ROUTED_AT_ONCE + a_webhook_route(sink) + routes), environ=environ
        ) as receiver,
        receiver.client() as client,
    ):
        await submit_task(client)
        rows = "SELECT route, outcome, reason FROM attempts JOIN deliveries ON deliveries.id = delivery_id"
        await wait_until(lambda: len(receiver.rows(rows)) >= 3)

        made = {route: (outcome, reason) for route, outcome, reason in receiver.rows(rows)}
        assert made["hook"] == ("accepted", "")
        for route, outcome in {"number": "refused", "name": "failed"}.items():
            assert made[route][0] == outcome
            assert "169.254.169.254 is never dialled: a cloud's metadata service" in made[route][1]


async def test_a_route_to_metadata_is_a_configuration_error(tmp_path: Path) -> None:
    route = '[[routes]]\nname = "r"\nwebhook = { url = "http://169.254.169.254/latest" }\n'
    receiver = Receiver(tmp_path, a_config("http://127.0.0.1:9", more=route))

    ran = receiver.run_cli("serve")

    assert ran.returncode == 78
    fault = "routes.0.webhook.url: points to a link-local or cloud-metadata address, which is never dialled"
    assert f"config.toml:13: {fault}" in ran.stderr
