"""`kling-receiver doctor` beside the running service: what only the service knows, and the public URL from outside."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest
import pytest_asyncio
from harness.doctor import Report, run_doctor
from harness.http_client import plain_http
from harness.running_service import (
    KEY,
    SECRET,
    Receiver,
    Sink,
    a_config,
    a_kling,
    a_push_body,
    a_receiver,
    a_script_route,
    a_sink,
    a_webhook_route,
    an_asgi_server,
    create_callback_url,
)
from harness.waiting import wait_until
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from receiver.store.sqlite.examination import has_wal_reset_bug, sqlite_version

pytestmark = pytest.mark.asyncio(loop_scope="module")

Forward = Callable[..., Awaitable[Response]]
Handler = Callable[[Request, bytes, Forward], Awaitable[Response]]
UNVERIFIED = '[callbacks]\nverify = "never"\n'


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def installed(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Receiver, Sink]]:
    """A running service with a webhook, a script and a simulated Kling."""
    folder = tmp_path_factory.mktemp("doctor")
    async with a_kling() as kling, a_sink() as sink:
        more = a_webhook_route(sink) + a_script_route(folder, extra='on = ["succeed", "alert"]')
        async with a_receiver(folder, a_config(kling.url, more=more)) as receiver:
            yield receiver, sink


async def examine(receiver: Receiver, *, public: str = "") -> Report:
    """Run the command with the service's configuration, or with another public URL."""
    path = receiver.config_path
    if public:
        path = receiver.folder / "other.toml"
        path.write_text(receiver.config_path.read_text().replace(f'url = "{receiver.public}"', f'url = "{public}"'))
    return await asyncio.to_thread(run_doctor, path)


async def test_a_healthy_installation_passes(installed: tuple[Receiver, Sink]) -> None:
    receiver, sink = installed

    report = await examine(receiver)

    expected = {"public.address"} | ({"store.sqlite"} if has_wal_reset_bug(sqlite_version()) else set())
    assert report.failed == set()
    assert {each["name"] for each in report.findings if each["status"] == "warning"} == expected
    assert report.code == 0
    assert "900 KiB arrives unchanged" in report.says("public.probe")[1]
    assert report.says("runtime")[1] == "The service uses uvloop and httptools."
    assert report.says("limits.files")[1].startswith("The service may have")
    assert report.one("routes.hook")["status"] == report.one("routes.script")["status"] == "ok"
    assert sink.bodies == []


async def test_no_secret_and_no_token_is_in_the_report(installed: tuple[Receiver, Sink]) -> None:
    receiver, _ = installed

    report = await examine(receiver)

    assert [secret for secret in (KEY, SECRET, receiver.token) if secret in report.text] == []


@asynccontextmanager
async def a_proxy(receiver: Receiver, handle: Handler) -> AsyncIterator[str]:
    """Run a proxy in front of the public listener. *handle* gets the request, its body, and a way to forward it."""

    async def respond(request: Request) -> Response:
        async def forward(body: bytes, *, without: tuple[str, ...] = (), host: str = "") -> Response:
            dropped = {"host", "content-length", *without}
            headers = {name: value for name, value in request.headers.items() if name not in dropped}
            headers |= {"host": host} if host else {}
            answer = await client.post(f"{receiver.public}{request.url.path}", content=body, headers=headers)
            return Response(answer.content, answer.status_code)

        return await handle(request, await request.body(), forward)

    async with (
        plain_http() as client,
        an_asgi_server(Starlette(routes=[Route("/{path:path}", respond, methods=["POST"])])) as url,
    ):
        yield url


async def redirect(request: Request, _: bytes, __: Forward) -> Response:
    return RedirectResponse(f"https://www.example.com{request.url.path}", 301)


async def strip_body(_: Request, __: bytes, forward: Forward) -> Response:
    return await forward(b"")


async def change_body(_: Request, body: bytes, forward: Forward) -> Response:
    return await forward(body.replace(b"probe", b"prove"))


async def limit_body(_: Request, body: bytes, forward: Forward) -> Response:
    return Response("too large", 413) if len(body) > 1024 else await forward(body)


async def drop_signature(_: Request, body: bytes, forward: Forward) -> Response:
    return await forward(body, without=("webhook-signature",))


async def lead_elsewhere(_: Request, __: bytes, ___: Forward) -> Response:
    return JSONResponse({"ok": True})


async def show_the_path(request: Request, body: bytes, forward: Forward) -> Response:
    answer = await forward(body)
    answer.headers["x-original-url"] = str(request.url)
    return answer


async def change_host(_: Request, body: bytes, forward: Forward) -> Response:
    return await forward(body, host="internal.example.com")


async def lose_the_service(_: Request, __: bytes, ___: Forward) -> Response:
    return Response("bad gateway", 502)


@pytest.mark.parametrize(
    ("handle", "message", "remedy"),
    [
        (redirect, "answers with a redirect (301)", "Set [public] url to the address it leads to"),
        (strip_body, "arrives without its body", "Let the proxy pass bodies on"),
        (change_body, "body arrives changed", "Let the proxy pass bodies on unchanged"),
        (limit_body, "refuses a body of 9", "client_max_body_size 1m"),
        (drop_signature, "without Kling's signature headers", "webhook-signature"),
        (lead_elsewhere, "leads elsewhere", "DNS record"),
        (show_the_path, "contains the callback's token", "Turn off"),
        (change_host, "refuses the host name", "pass the Host header on"),
        (lose_the_service, "does not reach the service behind it", "[public] listen"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
async def test_a_proxy_that_breaks_callbacks_is_named(
    installed: tuple[Receiver, Sink],
    handle: Handler,
    message: str,
    remedy: str,
) -> None:
    receiver, _ = installed

    async with a_proxy(receiver, handle) as url:
        report = await examine(receiver, public=url)

    status, text, advice = report.says("public.probe")
    assert status == "failed"
    assert message in text
    assert remedy in advice
    assert "kling-receiver expose nginx" in advice
    assert "/callbacks/" not in text
    assert report.code == 1


async def test_a_proxy_that_forwards_everything_passes(installed: tuple[Receiver, Sink]) -> None:
    receiver, _ = installed

    async def pass_on(_: Request, body: bytes, forward: Forward) -> Response:
        return await forward(body)

    async with a_proxy(receiver, pass_on) as url:
        report = await examine(receiver, public=url)

    assert report.says("public.probe")[0] == "ok"
    assert report.one("public.probe")["details"]["bytes"] == 900 * 1024


async def test_a_held_route_and_dead_deliveries_are_named_until_they_are_replayed(tmp_path: Path) -> None:
    async with a_kling() as kling, a_sink() as sink:
        sink.answer = lambda: 410
        config = a_config(kling.url, more=UNVERIFIED + a_webhook_route(sink))
        async with a_receiver(tmp_path, config) as receiver, receiver.client() as client:
            await push_success(client)
            await wait_until(lambda: receiver.rows("SELECT 1 FROM routes WHERE held_by IS NOT NULL") != [])

            report = await examine(receiver)
            sink.answer = lambda: 204
            await receiver.run_cli_async("routes", "release", "hook")
            await receiver.run_cli_async("replay", "--route", "hook", "--status", "dead", "--from", "1h")
            await wait_until(lambda: receiver.rows("SELECT 1 FROM deliveries WHERE status = 'delivered'") != [])
            after = await examine(receiver)

    assert report.failed == {"routes.held", "deliveries.dead"}
    assert "hook is held by its failures" in report.says("routes.held")[1]
    assert "kling-receiver routes release hook" in report.says("routes.held")[2]
    assert report.says("alerts")[0] == "warning"
    assert report.says("alerts")[1].startswith("1 alert is not acknowledged. The newest: Route hook is held")
    assert "not acknowledged" not in after.says("alerts")[1]
    assert report.one("deliveries.dead")["details"] == {"route": "hook", "dead": 1}
    assert "kling-receiver replay --route hook --status dead --from 7d" in report.says("deliveries.dead")[2]
    assert after.failed == set()


async def push_success(client: httpx2.AsyncClient) -> None:
    _, url = await create_callback_url(client)
    async with plain_http() as caller:
        answer = await caller.post(url, content=a_push_body("succeed"))
    assert answer.status_code == 200, answer.text
