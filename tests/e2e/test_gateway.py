"""The drop-in gateway with real processes: a client sees no difference from Kling."""

import json
from collections.abc import Callable
from pathlib import Path

from harness.running_service import (
    ENDPOINT,
    JOB,
    KEY,
    a_config,
    a_kling,
    a_receiver,
    a_recording_server,
    a_sink,
    a_webhook_route,
)
from harness.waiting import wait_until
from starlette.requests import Request
from starlette.responses import Response

CREATE = "/kling/v1/images/multi-image2image"
SEED = """\
{"model_name":"kling-v2","prompt":"Example prompt","negative_prompt":"velit quis mollit eu",\
"subject_image_list":["http://dummyimage.com/400x400"],"scence_image":"","n":4,"aspect_ratio":" 2:3",\
"callback_url":"http://gxdf.an/mgjptue"}"""
LOOPBACK = '[network]\nallow = ["127.0.0.0/8"]\n'

CREATED = b"""{ "code" : 0,
  "message":"SUCCEED", "request_id" :"r-1" ,"data":{"task_id" : "8672", "task_status":"submitted"}}
"""


def respond_with(status: int, body: bytes, **headers: str) -> Callable[[Request], Response]:
    """Make Kling always answer the same bytes."""
    return lambda _: Response(body, status, headers={"content-type": "application/json", **headers})


async def test_a_create_reaches_kling_unchanged_except_for_its_callback_url(tmp_path: Path) -> None:
    async with a_recording_server() as (server, url), a_receiver(tmp_path, a_config(f"{url}/kling")) as receiver:
        server.answer = respond_with(200, CREATED, **{"x-request-id": "r-1"})

        async with receiver.client() as client:
            answer = await client.post(CREATE, content=SEED)
            task = (await client.get("/api/tasks/8672")).json()

        assert (answer.status_code, answer.content) == (200, CREATED)
        assert answer.headers["x-request-id"] == "r-1"
        (request,), (body,) = server.requests, server.bodies
        assert request.url.path == CREATE
        assert request.headers["authorization"] == f"Bearer {KEY}"
        sent, printed = json.loads(body), json.loads(SEED)
        assert sent.pop("callback_url").startswith(f"{receiver.public}/callbacks/")
        assert sent.pop("external_task_id") == task["id"]
        assert printed.pop("callback_url") == "http://gxdf.an/mgjptue"
        assert sent == printed
        untouched = SEED.removesuffix(',"callback_url":"http://gxdf.an/mgjptue"}')
        assert body.decode().startswith(untouched)
        assert task["kling_id"] == "8672"
        assert task["origin"] == "gateway"


async def test_klings_refusal_is_passed_back_unchanged(tmp_path: Path) -> None:
    refusals = [
        (429, b'{"code":1303, "message":"parallel task over resource pack limit","request_id":"r-2"}'),
        (400, b'{ "code": 1201,"message":"prompt is invalid" ,"request_id":"r-3"}'),
        (401, b'{"code":1000,"message":"Authentication failed","request_id":"r-4"}\n'),
        (200, b'{"code":1102,"message":"pack used up","request_id":"r-5"}'),
        (500, b"<html>\n<body>Internal Server Error</body></html>"),
        (502, b""),
    ]
    async with a_recording_server() as (server, url), a_receiver(tmp_path, a_config(url)) as receiver:
        async with receiver.client() as client:
            for number, (status, body) in enumerate(refusals):
                server.answer = respond_with(status, body)
                answer = await client.post(CREATE, content=SEED + " " * number)  # equal bodies would be repeats
                assert (answer.status_code, answer.content) == (status, body)

        posted = [request.url.path for request in server.requests if request.method == "POST"]
        assert posted == ["/v1/images/multi-image2image"] * len(refusals)


async def test_all_other_calls_pass_through(tmp_path: Path) -> None:
    async with a_recording_server() as (server, url), a_receiver(tmp_path, a_config(f"{url}/kling/")) as receiver:
        requests = [
            ("GET", "/kling/v1/images/multi-image2image/8672"),
            ("GET", "/kling/v1/images/multi-image2image?pageNum=2&pageSize=500"),
            ("GET", "/kling/account/costs?start_time=1&end_time=2&resource_pack_name=%E4%B8%AD"),
            ("POST", "/kling/v1/audio/tts"),
            ("DELETE", "/kling/v1/general/presets/a%20b"),
        ]

        async with receiver.client() as client:
            for number, (method, path) in enumerate(requests):
                body_sent = b'{ "code":0 , "data":[ %d ]}' % number
                server.answer = respond_with(200, body_sent)
                content = b'{ "text" : "hi" }' if method == "POST" else None
                answer = await client.request(method, path, content=content)
                assert (answer.status_code, answer.content) == (200, body_sent)
            strangers = await client.get(requests[0][1], headers={"authorization": f"Bearer {KEY}"})

        seen = [(request.method, f"{request.scope['raw_path'].decode()}?{request.url.query}".rstrip("?"))
                for request in server.requests]  # fmt: skip
        assert seen == requests
        assert server.bodies[3] == b'{ "text" : "hi" }'
        assert {request.headers["authorization"] for request in server.requests} == {f"Bearer {KEY}"}
        assert receiver.rows("SELECT count(*) FROM tasks") == [(0,)]
        assert strangers.status_code == 401
        assert strangers.json()["code"] == 1000


async def test_a_clients_callback_url_gets_each_push_byte_for_byte(tmp_path: Path) -> None:
    async with (
        a_sink() as sink,
        a_sink(check_signatures=False) as theirs,
        a_kling(dialect="gateway", push_submitted=True) as kling,
        a_receiver(
            tmp_path, a_config(kling.url, more=LOOPBACK + a_webhook_route(sink, extra='on = ["*"]'))
        ) as receiver,
        receiver.client() as client,
    ):
        body = json.loads(SEED) | {"callback_url": theirs.url}

        answer = await client.post(CREATE, json=body)

        assert answer.json()["code"] == 0
        await wait_until(lambda: len(theirs.bodies) == len(sink.bodies) == 3)
        pushed = {push["status"]: push["body"].encode() for push in kling.state()["pushes"]}
        assert sorted(theirs.bodies) == sorted(pushed.values())
        assert not [headers for headers in theirs.headers if "webhook-id" in headers]
        lanes = {route for (route,) in receiver.rows("SELECT DISTINCT route FROM deliveries")}
        assert lanes == {"hook", "reply:" + theirs.url.split("/")[2]}
        (created,) = kling.state()["creates"]
        assert created["body"]["callback_url"].startswith(f"{receiver.public}/callbacks/")


async def test_a_clients_callback_url_gets_poll_answers_without_a_public_url(tmp_path: Path) -> None:
    statuses = [
        b'{"task_id" : "8672","task_status":"processing", "task_status_msg":"","task_info":{}}',
        b'{"task_id" : "8672","task_status":"succeed",  "task_result":{"images":[ {"index":0,"url":"https://c.example/0.png"}]}}',
    ]
    polled = iter([statuses[0], *[statuses[1]] * 9])

    def answer(request: Request) -> Response:
        body_sent = b'{"code":0, "message":"SUCCEED" , "request_id":"r","data": %b }'
        return Response(CREATED if request.method == "POST" else body_sent % next(polled))

    polling = '[poll]\nafter = "30ms"\nevery = "30ms"\n'
    async with a_recording_server() as (server, url), a_sink(check_signatures=False) as theirs:
        server.answer = answer
        config = a_config(url, public_url="", more=LOOPBACK + polling)
        async with a_receiver(tmp_path, config) as receiver, receiver.client() as client:
            body = json.loads(SEED) | {"callback_url": theirs.url}
            await client.post(CREATE, json=body)

            await wait_until(lambda: len(theirs.bodies) == 2)

            assert theirs.bodies == statuses
            assert "callback_url" not in json.loads(server.bodies[0])


async def test_a_clients_callback_url_cannot_reach_the_private_network(tmp_path: Path) -> None:
    async with (
        a_sink(check_signatures=False) as theirs,
        a_kling(dialect="gateway") as kling,
        a_receiver(tmp_path, a_config(kling.url)) as receiver,
        receiver.client() as client,
    ):
        answer = await client.post(CREATE, json=json.loads(SEED) | {"callback_url": theirs.url})
        submit = {"endpoint": ENDPOINT, "body": JOB | {"callback_url": "http://localhost:1/hook"}}
        refused = await client.post("/api/tasks", json=submit)

        assert (answer.status_code, refused.status_code) == (400, 400)
        assert "127.0.0.1 is not public: loopback" in answer.json()["message"]
        assert "[network] allow" in refused.text
        assert kling.counts["created"] == 0
        assert receiver.rows("SELECT count(*) FROM tasks") == [(0,)]
