"""No secret leaves the process, at the most verbose log level and in every kind of failure."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from harness.ports import free_port
from harness.raw_http import a_connection, http_request
from harness.running_service import (
    ENDPOINT,
    JOB,
    Receiver,
    a_kling,
    a_push_body,
    a_receiver,
    a_recording_server,
    a_sink,
    create_callback_url,
    submit_task,
)
from harness.secret_outputs import Outputs, dump_store, signing_secret
from harness.waiting import wait_until
from starlette.requests import Request
from starlette.responses import Response

SECRETS = {
    "API_KEY": "canary-api-key-0q8w7e6r5t",
    "ACCESS_KEY": "canary-access-key-1a2s3d4f",
    "SECRET_KEY": "canary-secret-key-that-is-long-enough-9z8x7c",
    "ADMIN_TOKEN": "canary-admin-token-5t4r3e2w1q",
    "SIGNING": signing_secret("canary-signing"),
    "ROUTE": signing_secret("canary-route"),
    "OLD_ROUTE": signing_secret("canary-old-route"),
    "GATEWAY": signing_secret("canary-gateway"),
    "HEADER": "canary-header-2w3e4r5t6y",
    "SCRIPT": "canary-script-7u8i9o0p",
    "PASSWORD": "canary-password-3e4r5t",
    "NOTIFY_USER": "canary-notify-user-1q2w3e",
    "NOTIFY_PASSWORD": "canary-notify-password-4r5t6y",
    "NOTIFY_PATH": "canary-notify-path-7u8i9o",
}
HIDDEN_PATH = "canary-path-6y7u8i"
GUESSED_TOKEN = "canary-guessed-token-0000000000000000000000000"
CLIENTS = "canary-clients-key-8i9o0p"


def a_config(kling: str, sink: str, refusing: str, keys: str, *, token: str = 'token = "env:ADMIN_TOKEN"') -> str:
    """A configuration with every possible secret. One route works; each other one fails in its own way."""
    nowhere = f"http://127.0.0.1:{free_port()}/{HIDDEN_PATH}?key={HIDDEN_PATH}"
    signed = 'secret = ["env:ROUTE", "env:OLD_ROUTE"]'
    headers = 'headers = { authorization = "env:HEADER", x-key = "' + SECRETS["HEADER"] + '" }'
    return f"""
[public]
listen = "@PUBLIC_LISTEN@"
url = "@PUBLIC@"
[admin]
listen = "@ADMIN_LISTEN@"
{token}
[kling]
base_url = "{kling}"
timeout = "2s"
{keys}
[callbacks]
signing_secrets = ["env:SIGNING"]
max_body = "64KiB"
[gateway]
secret = "env:GATEWAY"
[network]
allow = ["127.0.0.0/8"]
[alerts]
heartbeat = "{nowhere}"
[[routes]]
name = "good"
on = ["*"]
unverified = true
webhook = {{ url = "{sink}/{HIDDEN_PATH}?key={HIDDEN_PATH}", {signed}, {headers} }}
[[routes]]
name = "refuses"
on = ["*"]
unverified = true
retry = ["50ms"]
webhook = {{ url = "{refusing}/{HIDDEN_PATH}?key={HIDDEN_PATH}", {signed}, {headers} }}
[[routes]]
name = "nowhere"
on = ["*"]
unverified = true
retry = ["50ms"]
webhook = {{ url = "{nowhere}", {signed}, {headers} }}
[[routes]]
name = "script"
on = ["*"]
unverified = true
retry = ["50ms"]
[routes.script]
command = ["/bin/sh", "-c", "test -n \\"$KEY\\" && exit 3"]
env = {{ KEY = "env:SCRIPT" }}
[[routes]]
name = "no-script"
on = ["*"]
unverified = true
retry = ["50ms"]
script = {{ command = ["./not-there"], env = {{ KEY = "env:SCRIPT" }} }}
[[routes]]
name = "people"
on = ["succeed"]
unverified = true
retry = ["1h"]
notify = {{ urls = ["{_notify_url(refusing)}", "tgram://{SECRETS["NOTIFY_PATH"]}"] }}
"""


def _notify_url(refusing: str) -> str:
    user = f"{SECRETS['NOTIFY_USER']}:{SECRETS['NOTIFY_PASSWORD']}"
    return f"json://{user}@{urlsplit(refusing).netloc}/{SECRETS['NOTIFY_PATH']}"


READING = [
    "tasks list", "tasks show TASK", "events list", "events show EVENT", "deliveries list", "deliveries show DELIVERY",
    "routes list", "routes test people", "routes test good", "routes test refuses", "routes test nowhere",
    "routes test script",
    "config check", "config show", "doctor", "explain TASK", "db stats", "db check", "replay --route nowhere --dry-run",
    "routes hold nowhere", "routes release nowhere", "deliveries retry DELIVERY",
]  # fmt: skip
FAILING = [
    "tasks show nonsense", "events show nonsense", "routes test nonsense", "submit images/nonsense --set prompt=x",
    "submit images/multi-image2image --body @not-there.json", "tasks nonsense", "replay --route nonsense --dry-run",
]  # fmt: skip
PAGES = [
    "/api/tasks", "/api/events", "/api/deliveries", "/api/routes", "/api/tasks/TASK", "/api/events/EVENT",
    "/api/deliveries/DELIVERY", "/openapi.json", "/metrics", "/console", "/readyz", "/healthz", "/api/nonsense",
]  # fmt: skip


@pytest.mark.timeout(300)  # one process per command is slow on a busy machine
async def test_no_output_contains_a_secret(tmp_path: Path) -> None:
    outputs = Outputs(secrets={**SECRETS, "hidden path": HIDDEN_PATH, "guessed": GUESSED_TOKEN})
    async with (
        a_sink(check_signatures=False) as sink,
        a_sink(check_signatures=False) as refusing,
        a_kling(api_key=SECRETS["API_KEY"], drop={"next": 1}) as kling,
    ):
        refusing.answer = lambda: Response(status_code=302, headers={"location": f"http://a.b/{HIDDEN_PATH}"})
        sink_at = sink.url.removesuffix("/hook")
        config = a_config(kling.url, sink_at, refusing.url, 'api_key = "env:API_KEY"')
        async with a_receiver(tmp_path, config, environ=SECRETS) as receiver:
            # The harness reads the token from the file of a generated one; here it is configured.
            (receiver.folder / "var" / "admin-token").write_text(SECRETS["ADMIN_TOKEN"])
            url = await trigger_errors(receiver, sink_at, outputs)
            await wait_until(lambda: len(receiver.log_entries("route.held")) >= 2)
            await read_everything(receiver, outputs)
            kling.configure({"refuse": [{"code": 1000}, {"code": 502}, {"code": 5000}], "refuse_queries": "1102,502"})
            async with receiver.client() as client:
                for _ in range(3):
                    await client.post("/kling/v1/" + ENDPOINT, json=JOB)
            assert await receiver.stop() == 0
            outputs.record(receiver.run_cli("tasks", "list"))
            outputs.record(receiver.run_cli("config", "show", "--json"))
            outputs.texts["log"] = receiver.log()
            for trouble in ("callback.refused", "connection.refused", "gateway.failed", "kling.refused", "route.held"):
                assert receiver.log_entries(trouble)
            tokens = {urlsplit(create["body"]["callback_url"]).path for create in kling.state()["creates"]}
            tokens.add(urlsplit(url).path)
            outputs.secrets |= {f"callback token {at}": path.rpartition("/")[2] for at, path in enumerate(tokens)}
            outputs.texts["store"] = dump_store(receiver)
            outputs.secrets["client's callback URL"] = CLIENTS

    assert len(tokens) >= 5
    # A client's callback URL is stored, because deliveries need it.
    leaks = outputs.leaks(ignore=lambda where, name: where == "store" and name == "client's callback URL")
    assert leaks == []


async def test_no_output_contains_the_access_key_or_its_token(tmp_path: Path) -> None:
    outputs, shown = Outputs(secrets={**SECRETS, "hidden path": HIDDEN_PATH, "guessed": GUESSED_TOKEN}), []

    def answer(request: Request) -> Response:
        shown.append(request.headers["authorization"].removeprefix("Bearer "))
        # Like a gateway that echoes the request.
        body = {"code": 1002, "message": f"cannot take {request.headers['authorization']}", "request_id": "r"}
        return Response(json.dumps(body), 401, headers={"content-type": "application/json"})

    async with a_sink(check_signatures=False) as sink, a_recording_server() as (server, at):
        server.answer = answer
        keys = 'access_key = "env:ACCESS_KEY"\nsecret_key = "env:SECRET_KEY"'
        config = a_config(at, sink.url, sink.url, keys, token="")
        async with a_receiver(tmp_path, config, environ=SECRETS) as receiver:
            outputs.secrets["the token it made"] = receiver.token
            async with receiver.client() as client:
                task = await submit_task(client)
                assert task["message"]
                outputs.texts["task"] = (await client.get(f"/api/tasks/{task['id']}")).text
                outputs.texts["tasks"] = (await client.get("/api/tasks")).text
            outputs.record(receiver.run_cli("tasks", "show", task["id"]))
            outputs.record(receiver.run_cli("config", "show"))
            outputs.record(receiver.run_cli("config", "show", "--json"))
            assert await receiver.stop() == 0
            outputs.texts["log"] = receiver.log()
    outputs.secrets |= {f"signed token {number}": token for number, token in enumerate(shown)}

    assert shown
    assert outputs.leaks() == []


async def trigger_errors(receiver: Receiver, sink_at: str, outputs: Outputs) -> str:
    """Do everything that succeeds, and everything that fails in its own way. Return a minted URL."""
    async with receiver.client() as client:
        await submit_task(client)
        theirs = JOB | {"callback_url": f"{sink_at}/theirs?key={CLIENTS}"}
        await client.post("/kling/v1/" + ENDPOINT, json=theirs)
        bad = await client.post("/kling/v1/" + ENDPOINT, json=JOB | {"callback_url": f"ftp://{CLIENTS}"})
        strange = await client.get(f"/api/{GUESSED_TOKEN}", headers={"authorization": f"Bearer {GUESSED_TOKEN}"})
        outputs.texts["bad create"], outputs.texts["strangers"] = bad.text, strange.text
        task, url = await create_callback_url(client)
    path = urlsplit(url).path
    forged = {"webhook-id": "1", "webhook-timestamp": "1", "webhook-signature": "v1,bm9wZQ=="}
    credentials = {"authorization": f"Bearer {SECRETS['PASSWORD']}", "cookie": f"key={SECRETS['PASSWORD']}"}
    async with a_connection(receiver.public) as connection:
        refused = [
            await connection.request("POST", path, b"not json"),
            await connection.request("POST", path, a_push_body("succeed"), forged),
            await connection.request("POST", path, a_push_body("processing"), credentials),
            await connection.request("GET", path),
            await connection.request("POST", f"/callbacks/{GUESSED_TOKEN}", a_push_body("succeed")),
            await connection.request("POST", f"/{GUESSED_TOKEN}", a_push_body("succeed")),
            await connection.request("POST", path, b"{" + b" " * 70_000),
        ]
    assert [answer.status for answer in refused] == [400, 200, 200, 405, 404, 404, 413]
    outputs.texts["refused"] = "\n".join(answer.body.decode() for answer in refused)
    async with a_connection(receiver.public) as connection:
        connection.writer.write(f"POST {path} HTTP/1.1\r\nno header {GUESSED_TOKEN}\r\n\r\n".encode())
        assert (await connection.read_response()).status == 400
    async with a_connection(receiver.public) as connection:
        connection.send_request("POST", path, b"{", {"content-length": "50"})
    assert (await http_request("POST", url, a_push_body("succeed"))).status == 200
    await wait_until(lambda: receiver.rows("SELECT state FROM tasks WHERE id = ?", task["id"]) == [("succeed",)])
    return url


async def read_everything(receiver: Receiver, outputs: Outputs) -> None:
    """Run every command that shows data, and open every page."""
    ((task, event, delivery),) = receiver.rows(
        """SELECT events.task_id, events.id, deliveries.id FROM events JOIN deliveries ON event_id = events.id
        WHERE route = 'nowhere' AND attempts > 0 LIMIT 1"""
    )
    names = {"TASK": task, "EVENT": event, "DELIVERY": delivery}
    for command in READING + FAILING:
        words = [names.get(word, word) for word in command.split()]
        outputs.record(await receiver.run_cli_async(*words))
        if command in ("config show", "deliveries show DELIVERY", "tasks show TASK"):
            outputs.record(await receiver.run_cli_async(*words, "--json"))
    async with receiver.client() as client:
        for page in PAGES:
            for name, value in names.items():
                page = page.replace(name, value)  # noqa: PLW2901 - the page with its parameters
            outputs.texts[f"GET {page}"] = (await client.get(page)).text
        replay = await client.post("/api/replays", json={"route": "nowhere", "dry_run": True})
        outputs.texts["a replay"] = replay.text
        for route in ("good", "refuses", "nowhere", "script", "no-script"):
            outputs.texts[f"test of {route}"] = (await client.post(f"/api/routes/{route}/test")).text


BROKEN: Mapping[str, str] = {
    "keys": """
[kling]
api_key = "env:API_KEY"
access_key = "env:ACCESS_KEY"
base_url = "https://user:canary-password-3e4r5t@kling.example:99999"
api_kye = "canary-api-key-0q8w7e6r5t"
[klign]
api_key = "canary-api-key-0q8w7e6r5t"
[admin]
token = ["canary-admin-token-5t4r3e2w1q"]
[public]
url = "https://hooks.example.com/?key=canary-path-6y7u8i"
[callbacks]
signing_secrets = ["whsec_canary-signing!!", { key = "canary-signing" }, 7]
""",
    "other keys": """
[kling]
api_key = "canary-api-key-0q8w7e6r5t\\nmore"
secret_key = "canary-secret-key-that-is-long-enough-9z8x7c"
[admin]
token = "file:/not/there"
[gateway]
secret = "whsec_canary-gateway"
""",
    "routes": """
[[routes]]
name = "a"
webhook = { url = "htp://canary-path-6y7u8i", secret = { key = "canary-route" } }
[[routes]]
name = "b"
webhook = { url = "https://user:canary-password-3e4r5t@a.b", headers = { k = "canary-header-2w3e4r5t6y\\n" } }
[[routes]]
name = "c"
script = { command = "/bin/true --key canary-script-7u8i9o0p", env = { KEY = ["canary-script-7u8i9o0p"] } }
[[routes]]
name = "d"
webhook = { url = "https://a.b", secret = "canary-route", headers = { authorization = 7, k = "env:NOT_THERE" } }
""",
    "a string that does not end": '[kling]\napi_key = "canary-api-key-0q8w7e6r5t\n',
    "a string without quotes": "[kling]\napi_key = canary-api-key-0q8w7e6r5t\n",
}


def test_an_invalid_configuration_is_not_quoted(tmp_path: Path) -> None:
    outputs = Outputs(secrets={**SECRETS, "hidden path": HIDDEN_PATH, "guessed": GUESSED_TOKEN})
    receiver = Receiver(tmp_path, "", environ=SECRETS | {"KLING_RECEIVER__CALLBACKS__VERIFY": "canary"})

    for text in BROKEN.values():
        receiver.configure(text)
        for command in ("config check", "serve"):
            ran = receiver.run_cli(*command.split())
            outputs.record(ran)
            assert ran.returncode == 78, ran.stdout + ran.stderr

    assert outputs.leaks() == []
    everything = "".join(outputs.texts.values()).replace('"canary"', "")
    assert not re.search(r"canary", everything), everything
