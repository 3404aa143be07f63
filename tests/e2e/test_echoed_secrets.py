"""Servers, destinations and scripts that echo our secrets: nothing that is kept or shown contains them."""

import json
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from harness.raw_http import http_request
from harness.running_service import (
    ENDPOINT,
    JOB,
    Receiver,
    a_receiver,
    an_asgi_server,
    create_callback_url,
    submit_task,
    wait_for_state,
)
from harness.secret_outputs import Outputs, dump_store, signing_secret
from harness.waiting import wait_until
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

SECRETS = {
    "API_KEY": "canary-api-key-0q8w7e6r5t",
    "ADMIN_TOKEN": "canary-admin-token-5t4r3e2w1q",
    "SIGNING": signing_secret("canary-signing"),
    "ROUTE": signing_secret("canary-route"),
    "GATEWAY": signing_secret("canary-gateway"),
    "HEADER": "canary-header-2w3e4r5t6y",
    "SCRIPT": "canary-script-7u8i9o0p",
}
QUERY_KEY = "canary-query-key-9i8u7y6t"
CLIENTS_KEY = "canary-clients-key-8i9o0p"
HIDDEN_PATH = "canary-hidden-path-6y7u8i"
PLAIN_HEADER = "canary-plain-header-5t6y7u"


class EchoingKling:
    """A Kling or a gateway that puts the whole request into each of its answers."""

    def __init__(self) -> None:
        self.callback_urls: list[str] = []

    async def create(self, request: Request) -> Response:
        body = await request.json()
        self.callback_urls.append(body.get("callback_url", ""))
        echo = json.dumps({"headers": dict(request.headers), "body": body})
        if body["prompt"] == "refused":
            answer = {"code": 1201, "message": f"cannot take {echo}", "request_id": echo}
            return JSONResponse(answer, 400, headers={"x-echo": request.headers["authorization"]})
        data = {"task_id": str(len(self.callback_urls)), "task_status": "submitted", "echo": echo}
        return JSONResponse({"code": 0, "message": echo, "request_id": echo, "data": data})

    async def query(self, request: Request) -> Response:
        task_id = request.url.path.rpartition("/")[2]
        echo = json.dumps({"headers": dict(request.headers), "callback_urls": self.callback_urls})
        data = a_success(task_id, echo)
        return JSONResponse({"code": 0, "message": echo, "request_id": echo, "data": data})

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/{path:path}", self.create, methods=["POST"]),
                Route("/{path:path}", self.query, methods=["GET"]),
            ]
        )


def a_success(task_id: str, echo: str) -> dict[str, object]:
    url = f"https://cdn.example.com/{task_id}.png?signature=abc"
    result = {"images": [{"index": 0, "url": url}], "echo": [{"url": echo}]}
    return {"task_id": task_id, "task_status": "succeed", "task_status_msg": echo, "task_result": result}


async def echo_request(request: Request) -> Response:
    """Answer with the request, as a debugging destination does: /200/... is accepted, /500/... is not."""
    headers = "\n".join(f"{name}: {value}" for name, value in request.headers.items())
    text = f"{request.method} {request.url}\n{request.url.path}\n{headers}\n{json.dumps(dict(request.query_params))}"
    return PlainTextResponse(text, int(request.url.path.split("/")[1]))


def a_config(kling: str, sink: str) -> str:
    headers = f'headers = {{ authorization = "env:HEADER", x-api-key = "{PLAIN_HEADER}" }}'
    routes = "".join(
        f"""
[[routes]]
name = "answers-{status}"
on = ["*"]
unverified = true
retry = ["50ms"]
webhook = {{ url = "{sink}/{status}/{HIDDEN_PATH}?key={QUERY_KEY}", secret = "env:ROUTE", {headers} }}
"""
        for status in (200, 500, 410, 429)
    )
    return f"""
[public]
listen = "@PUBLIC_LISTEN@"
url = "@PUBLIC@"
[admin]
listen = "@ADMIN_LISTEN@"
token = "env:ADMIN_TOKEN"
[kling]
base_url = "{kling}"
api_key = "env:API_KEY"
[callbacks]
signing_secrets = ["env:SIGNING"]
[poll]
after = "1s"
every = "1s"
[gateway]
secret = "env:GATEWAY"
[network]
allow = ["127.0.0.0/8"]
{routes}
[[routes]]
name = "script"
on = ["*"]
unverified = true
retry = ["50ms"]
script = {{ command = ["/bin/sh", "-c", "env; exit 3"], env = {{ KEY = "env:SCRIPT" }} }}
"""


@pytest.mark.timeout(300)
async def test_an_echoed_secret_is_neither_kept_nor_shown(tmp_path: Path) -> None:
    kling, outputs = EchoingKling(), Outputs(secrets={**SECRETS, "query": QUERY_KEY, "header": PLAIN_HEADER})
    outputs.secrets["path"] = HIDDEN_PATH
    sink = Starlette(routes=[Route("/{path:path}", echo_request, methods=["POST"])])
    async with an_asgi_server(kling.app()) as kling_url, an_asgi_server(sink) as sink_url:
        config = a_config(kling_url, sink_url)
        async with a_receiver(tmp_path, config, environ=SECRETS) as receiver:
            (receiver.folder / "var" / "admin-token").write_text(SECRETS["ADMIN_TOKEN"])
            tasks = await exchange_echoes(receiver, kling, sink_url, outputs)
            await wait_until(lambda: attempts_of(receiver) >= 12)
            outputs.secrets |= {
                f"callback token {number}": urlsplit(url).path.rpartition("/")[2]
                for number, url in enumerate(kling.callback_urls)
            }
            await read_everything(receiver, tasks, outputs)
            assert await receiver.stop() == 0
            outputs.texts["log"] = receiver.log()
            outputs.texts["store"] = dump_store(receiver)
            for file in sorted((receiver.folder / "var").glob("receiver.db*")):
                outputs.texts[file.name] = file.read_bytes().decode("latin-1")

    echoed = [text for where, text in outputs.texts.items() if "'deliveries', 'show'" in where]
    assert any("x-api-key: ***" in text for text in echoed), "the destinations' answers were kept"
    assert outputs.leaks(ignore=is_documented) == []


def is_documented(where: str, name: str) -> bool:
    """Return whether a secret must be kept: deliveries to a client's own callback URL need the URL."""
    return name.startswith("client") and (where == "store" or where.startswith("receiver.db"))


async def exchange_echoes(receiver: Receiver, kling: EchoingKling, sink_url: str, outputs: Outputs) -> list[str]:
    """Let every party echo: creates, refusals, polls, callbacks and deliveries. Return the tasks."""
    outputs.secrets["client"] = CLIENTS_KEY
    async with receiver.client() as client:
        done = await submit_task(client, body=JOB | {"prompt": "done"})
        refused = await client.post("/api/tasks", json={"endpoint": ENDPOINT, "body": JOB | {"prompt": "refused"}})
        outputs.texts["refused"] = refused.text
        theirs = f"{sink_url}/500/theirs?key={CLIENTS_KEY}"
        for prompt in ("done", "refused"):
            answer = await client.post(f"/kling/v1/{ENDPOINT}", json=JOB | {"prompt": prompt, "callback_url": theirs})
            outputs.texts[f"gateway, {prompt}"] = f"{answer.headers}{answer.text}"
        minted, url = await create_callback_url(client)
        await wait_until(lambda: len(kling.callback_urls) == 4)
        kling.callback_urls.append(url)
        echo = f"Bearer {SECRETS['API_KEY']} {url}"
        for callback in (kling.callback_urls[0], url):
            body = json.dumps(a_success("1", echo) | {"callback_url": callback})
            assert (await http_request("POST", callback, body.encode())).status == 200
        await wait_for_state(client, done["id"], "succeed")
    return [done["id"], refused.json()["id"] if "id" in refused.json() else done["id"], minted["id"]]


def attempts_of(receiver: Receiver) -> int:
    ((count,),) = receiver.rows("SELECT count(*) FROM attempts")
    return int(count)


async def read_everything(receiver: Receiver, tasks: list[str], outputs: Outputs) -> None:
    """Run every command and read every path that shows what was kept."""
    deliveries = [str(row[0]) for row in receiver.rows("SELECT id FROM deliveries")]
    events = [str(row[0]) for row in receiver.rows("SELECT id FROM events")]
    for task in tasks:
        for command in ("tasks show", "explain"):
            outputs.record(await receiver.run_cli_async(*command.split(), task))
    for delivery in deliveries[:8]:
        outputs.record(await receiver.run_cli_async("deliveries", "show", delivery))
    paths = [f"/api/tasks/{task}{more}" for task in tasks for more in ("", "/explain")]
    paths += [f"/api/deliveries/{delivery}" for delivery in deliveries] + [f"/api/events/{event}" for event in events]
    async with receiver.client() as client:
        for path in [*paths, "/api/tasks", "/api/events", "/api/deliveries", "/api/routes", "/metrics"]:
            outputs.texts[f"GET {path}"] = (await client.get(path)).text
        for route in ("answers-200", "answers-500", "script"):
            outputs.texts[f"test of {route}"] = (await client.post(f"/api/routes/{route}/test")).text
