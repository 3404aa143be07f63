"""The gateway serves Kling's own API: answers are unchanged, and errors have Kling's shape."""

import json

import pytest
from harness.http_client import plain_http
from harness.web_app import TOKEN, SendBytes, Serve, WebApp
from starlette.responses import Response

from receiver.domain.errors import InvalidRequest, KlingUncertain, KlingUnreachable, ReceiverError, StoreUnavailable
from receiver.kling.client import KlingResponse
from receiver.web.gateway import Gateway, error_response
from receiver.web.server.body import BodyMemoryBudget
from receiver.web.server.error_boundary import ErrorBoundary

CREATE = "/kling/v1/images/multi-image2image"


async def test_a_create_is_forwarded_with_our_callback_url(web: WebApp) -> None:
    body = {"prompt": "a cat", "callback_url": "https://client.example/cb", "external_task_id": "mine"}

    answer = await web.client.post(CREATE, json=body)

    assert (answer.status_code, answer.json()["data"]["task_id"]) == (200, "8672")
    sent = json.loads(web.kling.bodies[0])
    assert sent["callback_url"].startswith("https://hooks.example.com/callbacks/")
    assert (sent["prompt"], sent["external_task_id"]) == ("a cat", "mine")
    assert web.kling.requests[0].headers["authorization"] == "Bearer kling-key"
    task = (await web.client.get("/api/tasks/mine")).json()
    assert (task["origin"], task["state"], task["kling_id"]) == ("gateway", "submitted", "8672")


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("/omni-video/o3", "options"),
        ("/avatar/somebody", "options"),
        ("/dance/hailuo-2", "options"),
        ("/v1/videos/3d-effects", None),
        ("/v1/3d/generations", None),
        ("/v1/videos/text_to_video", None),
        ("/v1/videos/user-avatar", None),
        ("/v1/videos/a/b/c/d", None),
    ],
)
async def test_every_form_of_create_gets_a_callback_url_and_a_task(web: WebApp, path: str, place: str | None) -> None:
    own = {"callback_url": "https://client.example/cb", "external_task_id": "mine"}

    answer = await web.client.post(f"/kling{path}", json=own if place is None else {place: own})

    assert answer.status_code == 200
    (request,), (body,) = web.kling.requests, web.kling.bodies
    assert request.url.path == path
    sent = json.loads(body)
    members = sent if place is None else sent[place]
    assert members["callback_url"].startswith("https://hooks.example.com/callbacks/")
    task = (await web.client.get("/api/tasks/mine")).json()
    assert (task["origin"], task["state"], task["kling_id"]) == ("gateway", "submitted", "8672")


PASS_THROUGH = {
    "idempotency-key": "order-17",
    "x-request-id": "r-77",
    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "x-kling-project": "ads",
    "accept": "application/json;q=0.9",
    "accept-language": "de",
}


@pytest.mark.parametrize(
    "path", ["/v1/images/generations", "/omni-video/o3", "/v1/videos/something-new", "/v1/audio/tts"]
)
async def test_a_creates_query_and_headers_are_forwarded(web: WebApp, path: str) -> None:
    ours = {"kling-receiver-label": "spring", "cookie": "a=b", "x-forwarded-for": "10.0.0.1", "x-other": "1"}

    answer = await web.client.post(f"/kling{path}?region=eu&x=%201,2", json={}, headers=PASS_THROUGH | ours)

    assert answer.status_code == 200
    (request,) = web.kling.requests
    assert f"{request.url.path}?{request.scope['query_string'].decode()}" == f"{path}?region=eu&x=%201,2"
    assert {name: request.headers.get(name) for name in PASS_THROUGH} == PASS_THROUGH
    assert request.headers["content-type"] == "application/json"
    assert request.headers["authorization"] == "Bearer kling-key"
    assert not ours.keys() & request.headers.keys()


async def test_a_json_create_declared_as_a_form_is_sent_as_json(web: WebApp) -> None:
    headers = {"content-type": "application/x-www-form-urlencoded"}

    answer = await web.client.post(CREATE, content=b'{"prompt": "a cat"}', headers=headers)

    assert answer.status_code == 200
    assert web.kling.requests[0].headers["content-type"] == "application/json"


async def test_a_create_of_the_api_forwards_only_its_body(web: WebApp) -> None:
    wanted = {"endpoint": "images/generations", "body": {}}

    answer = await web.client.post("/api/tasks", json=wanted, headers=PASS_THROUGH)

    assert answer.status_code == 202
    (request,) = web.kling.requests
    assert request.headers["accept"] == "application/json"
    assert not (PASS_THROUGH.keys() - {"accept"}) & set(request.headers)


async def test_task_metadata_headers_are_not_forwarded_to_kling(web: WebApp) -> None:
    headers = [
        (b"kling-receiver-label", "für Anna".encode()),
        (b"kling-receiver-tags", b"project=ads, team = a=b ,"),
        (b"kling-receiver-tags", b"day=1"),
        (b"kling-receiver-batch", b"spring"),
    ]

    answer = await web.client.post(CREATE, json={"external_task_id": "mine"}, headers=headers)

    assert answer.status_code == 200
    assert not [name for name in web.kling.requests[0].headers if name.startswith("kling-receiver")]
    task = (await web.client.get("/api/tasks/mine")).json()
    assert (task["label"], task["batch"]) == ("für Anna", "spring")
    assert task["tags"] == {"project": "ads", "team": "a=b", "day": "1"}
    closed = (await web.client.post("/api/batches/spring/close")).json()
    assert (closed["state"], closed["tasks"], closed["size"]) == ("closed", 1, None)

    late = await web.client.post(CREATE, json={}, headers={"kling-receiver-batch": "spring"})

    assert (late.status_code, late.json()["code"]) == (409, 1201)
    assert "spring" in late.json()["message"]
    assert len(web.kling.requests) == 1


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("tags", b"project", "written as name=value"),
        ("tags", b"=ads", "1 to 64 characters"),
        ("tags", b"a:b=1", "without a colon"),
        ("label", b"x" * 300, "256 characters"),
        ("label", b"\xff", "UTF-8"),
        ("batch", b"a b", "letters, digits"),
        ("batch", b"spring; size=2", "letters, digits"),
    ],
)
async def test_an_invalid_metadata_header_is_explained_and_nothing_is_sent(
    web: WebApp, name: str, value: bytes, message: str
) -> None:
    answer = await web.client.post(CREATE, json={}, headers=[(f"kling-receiver-{name}".encode(), value)])

    assert (answer.status_code, answer.json()["code"]) == (400, 1201)
    assert message in answer.json()["message"]
    assert web.kling.requests == []
    assert (await web.client.get("/api/tasks")).json()["items"] == []


async def test_klings_answer_is_returned_unchanged(web: WebApp) -> None:
    refusal = b'{ "code": 1303,\n "message": "too many", "request_id": "r9" }'
    web.kling.answer = lambda _: Response(
        refusal, 429, headers={"retry-after": "7", "set-cookie": "a=b"}, media_type="application/json"
    )

    answer = await web.client.post(CREATE, json={})

    assert (answer.status_code, answer.content) == (429, refusal)
    assert answer.headers["retry-after"] == "7"
    assert answer.headers["content-type"] == "application/json"
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/images/multi-image2image/8672"),
        ("GET", "/v1/images/multi-image2image?pageNum=1&pageSize=30"),
        ("GET", "/v1/videos/text2video/a%20b"),
        ("DELETE", "/v1/general/custom-voices/1"),
        ("POST", "/v1/audio/tts"),
        ("POST", "/v1/videos/identify-face"),
        ("POST", "/v1/general/delete-voices"),
        ("POST", "/v1/images/upload"),
        ("POST", "/account/costs"),
        ("POST", "/tasks"),
        ("GET", "/tasks?task_ids=a,b"),
        ("GET", "/omni-video/o3"),
    ],
)
async def test_all_other_calls_are_forwarded(web: WebApp, method: str, path: str) -> None:
    content = b'{"text": "hi"}' if method == "POST" else b""

    answer = await web.client.request(method, "/kling" + path, content=content)

    assert answer.status_code == 200
    (request,) = web.kling.requests
    assert request.method == method
    target = request.scope["raw_path"].decode()
    query = request.scope["query_string"].decode()
    assert target + ("?" + query if query else "") == path
    assert web.kling.bodies == [content]
    assert request.headers["authorization"] == "Bearer kling-key"
    assert (await web.client.get("/api/tasks")).json()["items"] == []


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_truncated_answer_is_reported_as_an_unknown_outcome(web: WebApp, method: str) -> None:
    web.kling.answer = lambda _: None

    answer = await web.client.request(method, CREATE if method == "POST" else CREATE + "/1", content=b"{}")

    assert (answer.status_code, answer.json()["code"], answer.json()["request_id"]) == (504, 5002, "")
    assert answer.json()["message"]


class FailingSubmitter:
    """A submitter and a Kling client that always fail."""

    def __init__(self, error: ReceiverError) -> None:
        self._error = error

    async def submit_now(self, *_: object, **__: object) -> KlingResponse:
        raise self._error

    async def forward(self, *_: object, **__: object) -> None:
        raise self._error


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    ("error", "status", "code", "data"),
    [
        (KlingUnreachable("Kling cannot be reached: refused."), 502, 5001, None),
        (KlingUncertain("No answer."), 504, 5002, None),
        (KlingUncertain("No answer.", external_task_id="tsk_1"), 504, 5002, {"external_task_id": "tsk_1"}),
        (StoreUnavailable("The disk is nearly full."), 503, 5001, None),
        (InvalidRequest("No."), 400, 1201, None),
        (ReceiverError("A fault of ours."), 500, 5000, None),
    ],
)
async def test_errors_are_answered_in_klings_shape(
    serve: Serve, *, method: str, error: ReceiverError, status: int, code: int, data: object
) -> None:
    submitter = FailingSubmitter(error)
    address = await serve(
        ErrorBoundary(Gateway(submitter, submitter, BodyMemoryBudget()), render=lambda _, error: error_response(error))
    )

    async with plain_http(base_url=f"http://{address}") as client:
        answer = await client.request(method, CREATE, content=b"{}")

    assert answer.status_code == status
    body = answer.json()
    assert (body["code"], body["request_id"], body.get("data")) == (code, "", data)


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b"", 400, 1201),
        (b"[1]", 400, 1201),
        (b'{"callback_url": "ftp://x"}', 400, 1201),
        (b'{"external_task_id": 5}', 400, 1201),
    ],
)
async def test_an_unusable_create_body_is_refused_in_klings_shape(
    web: WebApp, content: bytes, status: int, code: int
) -> None:
    answer = await web.client.post(CREATE, content=content)

    assert (answer.status_code, answer.json()["code"], answer.json()["request_id"]) == (status, code, "")
    assert answer.json()["message"]
    assert not web.kling.requests


async def test_an_unavailable_store_is_a_server_error(web: WebApp) -> None:
    await web.store.aclose()

    answer = await web.client.post(CREATE, json={})

    assert (answer.status_code, answer.json()["code"]) == (503, 5001)
    assert answer.headers["retry-after"] == "5"
    assert not web.kling.requests


async def test_large_images_pass_up_to_the_limit(web: WebApp, send_bytes: SendBytes) -> None:
    passed = await web.client.post(CREATE, json={"image": "A" * 5_000_000})
    head = f"POST {CREATE} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {TOKEN}\r\nconnection: close\r\n"
    refused = await send_bytes(web.admin, f"{head}content-length: {65 * 1024 * 1024}\r\n\r\n".encode())

    assert passed.status_code == 200
    assert refused.startswith(b"HTTP/1.1 413 ")
    assert b'"code":1201' in refused


@pytest.mark.parametrize(
    "path",
    [
        "/kling/v1/../../secrets",
        "/kling/%2e%2e/secrets",
        "/kling/v1/a%2Fb",
        "/kling/v1/a%5cb",
        "/kling/v1/a\\b",
        "/kling/v1/..;/secrets",
        "/%6bling/v1/images/generations",
    ],
)
async def test_no_path_leaves_klings_host_and_prefix(web: WebApp, path: str, send_bytes: SendBytes) -> None:
    head = (
        f"GET {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer the-admin-token\r\nconnection: close\r\n\r\n"
    )

    answer = await send_bytes(web.admin, head.encode())

    assert answer.split()[1] in (b"400", b"404")
    assert not web.kling.requests


async def test_a_multipart_body_to_an_unknown_endpoint_passes_unchanged(web: WebApp) -> None:
    content = b"--x\r\ncontent-disposition: form-data\r\n\r\n1\r\n--x--"
    headers = {"content-type": "multipart/form-data; boundary=x"}

    answer = await web.client.post("/kling/v1/videos/something-new", content=content, headers=headers)

    assert answer.status_code == 200
    assert web.kling.bodies == [content]
    assert web.kling.requests[0].headers["content-type"] == headers["content-type"]
    assert (await web.client.get("/api/tasks")).json()["items"] == []
