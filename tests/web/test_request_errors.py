"""The errors of invalid requests name the member, what is expected and what was found, and no secret."""

import json
from typing import Any

import pytest
from harness.web_app import WebApp

from receiver.web.api_requests import SubmitRequest

TASK = {"endpoint": "images/multi-image2image", "body": {"prompt": "x"}}
SECRET = "whsec_CANARY"
STATES = "awaiting, cancelled, expired, failed, processing, queued, rejected, submitted, submitting, succeed"
UNKNOWN_MEMBER = f"Unknown member 'callback_url'. Expected: {', '.join(sorted(SubmitRequest.model_fields))}."


async def detail(web: WebApp, method: str, path: str, body: Any = None) -> str:
    answer = await web.client.request(method, path, content=json.dumps(body) if body is not None else None)
    assert answer.status_code == 400, answer.text
    problem = answer.json()
    assert problem["code"] == "invalid_request"
    return str(problem["detail"])


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("limit=0", "'limit' must be a number from 1 to 500; found '0'."),
        ("limit=+5", "'limit' must be a number from 1 to 500; found ' 5'."),
        ("limit=5&limit=6", "'limit' must be given only once."),
        ("state=queued,lost", f"'state' must be one of: {STATES}; found 'lost'."),
        ("tag=project", "'tag' must be written as key:value; found a list of length 1."),
        ("tag=a:1&tag=a:2", "'tag' must be given only once for each key; found a list of length 2."),
        (
            "sate=queued",
            "Unknown query parameter 'sate'. Expected: batch, cursor, endpoint, from, label, limit, state, tag, to.",
        ),
    ],
)
async def test_a_wrong_parameter_is_named(web: WebApp, query: str, message: str) -> None:
    assert await detail(web, "GET", f"/api/tasks?{query}") == message


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("events?after=evt_1", "'after' must be an event's ID: evt_ and 25 letters or digits; found 'evt_1'."),
        ("costs?by=hour", "'by' must be tag:NAME or one of: endpoint, day, label, batch; found 'hour'."),
        (
            "costs?to=yesterday",
            "'to' must be a timestamp with a UTC offset, such as 2026-11-22T10:00:00Z; found 'yesterday'.",
        ),
    ],
)
async def test_other_operations_name_their_wrong_parameters(web: WebApp, query: str, message: str) -> None:
    assert await detail(web, "GET", f"/api/{query}") == message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"endpoint": None}, "'endpoint' must be a single line of 1 to 256 characters; found null."),
        ({"body": [1]}, "'body' must be an object; found a list of length 1."),
        ({"label": SECRET * 30}, "'label' must be a single line of at most 256 characters; found text of length 360."),
        ({"label": SECRET + "\n"}, "'label' must be a single line of at most 256 characters; found text of length 13."),
        ({"priority": 5000}, "'priority' must be a whole number from -1000 to 1000; found 5000."),
        ({"priority": True}, "'priority' must be a whole number from -1000 to 1000; found true."),
        ({"tags": {"team": 5}}, "'tags.team' must be a single line of at most 256 characters; found a number."),
        (
            {"tags": {"a:b": "x"}},
            "A name in 'tags' must be a single line of 1 to 64 characters without a colon; found text of length 3.",
        ),
        ({"tags": {str(n): "" for n in range(33)}}, "'tags' must be an object of at most 32 texts; found an object."),
        ({"batch": {"name": "b", "size": 0}}, "'batch.size' must be a whole number from 1 to 1000000; found 0."),
        ({"batch": {"name": "b", "sise": 1}}, "'batch': Unknown member 'sise'. Expected: name, size."),
        (
            {"callback_url": SECRET},
            UNKNOWN_MEMBER,
        ),
    ],
)
async def test_a_wrong_member_is_named(web: WebApp, change: dict[str, Any], message: str) -> None:
    assert await detail(web, "POST", "/api/tasks", {**TASK, **change}) == message


async def test_a_missing_member_is_named_with_its_meaning(web: WebApp) -> None:
    message = await detail(web, "POST", "/api/tasks", {"body": {}})

    assert message == "The member 'endpoint' is missing. Path of one of Kling's endpoints."


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            {"status": ["lost"]},
            "An item of 'status' must be one of: cancelled, dead, delivered, pending; found 'lost'.",
        ),
        (
            {"events": [{}]},
            "An item of 'events' must be a single line of at most 256 characters; found an object.",
        ),
        (
            {"events": ["evt_1"] * 501},
            "'events' must be a list of at most 500 texts; found a list of length 501.",
        ),
        ({"dry_run": "yes"}, "'dry_run' must be true or false; found text of length 3."),
        ({"from": "2026-11-22T10:00:00Z", "to": "2026-11-22T10:00:00Z"}, "'from' must be before 'to'."),
    ],
)
async def test_a_replay_names_what_is_wrong(web: WebApp, body: Any, message: str) -> None:
    assert await detail(web, "POST", "/api/replays", body) == message


@pytest.mark.parametrize(
    "body",
    [
        {**TASK, "x" * 5_000: 1},
        {**TASK, "tags": {"x" * 5_000: "a"}},
        {**TASK, "tags": {"a": "x" * 5_000}},
        {**TASK, "priority": 10**400},
        {**TASK, **{f"unknown{n}": n for n in range(20_000)}},
        {**TASK, "batch": {f"unknown{n}": n for n in range(20_000)}},
    ],
)
async def test_an_error_is_short_for_any_body(web: WebApp, body: Any) -> None:
    assert len(await detail(web, "POST", "/api/tasks", body)) < 700


@pytest.mark.parametrize("member", ["label", "tags", "\udc80"])
async def test_invalid_unicode_is_refused(web: WebApp, member: str) -> None:
    value: Any = {"\udc80": "x"} if member == "tags" else "\udc80"

    assert "must be" in await detail(web, "POST", "/api/tasks", {**TASK, member: value}) or member == "\udc80"


async def test_invalid_unicode_in_klings_body_is_sent_unchanged(web: WebApp) -> None:
    answer = await web.client.post(
        "/api/tasks", content=json.dumps({**TASK, "body": {"prompt": "\udc80", "\udc80": 1}})
    )

    assert answer.status_code == 202
    sent = json.loads(web.kling.bodies[-1])
    assert (sent["prompt"], sent["\udc80"]) == ("\udc80", 1)


@pytest.mark.parametrize("query", ["label=%ff", "label=caf%e9", "%c3=1", "tag=a:%f0%28"])
async def test_a_query_that_is_not_utf_8_is_refused(web: WebApp, query: str) -> None:
    assert await detail(web, "GET", f"/api/tasks?{query}") == "The query must be UTF-8 text, percent-encoded."


@pytest.mark.parametrize(
    ("media_type", "status"),
    [
        (None, 200),
        ("application/json; charset=utf-8", 200),
        ("Application/JSON", 200),
        ("application/vnd.example+json", 200),
        ("application/x-www-form-urlencoded", 200),  # curl's, if it is told nothing
        ("text/plain", 415),
        ("application/xml", 415),
        ("multipart/form-data; boundary=x", 415),
    ],
)
async def test_a_body_of_another_type_than_json_is_refused(web: WebApp, media_type: str | None, status: int) -> None:
    headers = {} if media_type is None else {"content-type": media_type}

    answer = await web.client.post("/api/routes/publish/hold", content=b'{"why": "a test"}', headers=headers)

    assert answer.status_code == status
    if status == 415:
        assert answer.headers["accept"] == "application/json"
        assert "must be JSON" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/api/tasks/a/cancel", "POST"),
        ("DELETE", "/api/tasks/a/retry", "POST"),
        ("POST", "/api/tasks/a/explain", "GET, HEAD"),
        ("GET", "/api/callback-urls/a/revoke", "POST"),
        ("PATCH", "/api/tasks/a/b", "GET, DELETE, HEAD"),
    ],
)
async def test_another_method_of_a_path_is_refused_with_those_allowed(
    web: WebApp, method: str, path: str, allowed: str
) -> None:
    answer = await web.client.request(method, path)

    assert (answer.status_code, answer.headers["allow"]) == (405, allowed)


@pytest.mark.parametrize(
    ("why", "status"), [("👨‍👩‍👧 \U0001fae9", 200), ("a\nb", 400), ("\x1b[2J", 400), ("\u202eevil", 400)]
)
async def test_a_line_may_not_contain_invisible_or_control_characters(web: WebApp, why: str, status: int) -> None:
    answer = await web.client.post("/api/routes/publish/hold", json={"why": why})

    assert answer.status_code == status


async def test_null_counts_as_missing_and_5_0_as_a_whole_number(web: WebApp) -> None:
    held = await web.client.post("/api/routes/publish/hold", json={"why": None})
    tried = await web.client.post("/api/routes/publish/backtest", content='{"last": 5.0}')

    assert (held.status_code, tried.status_code) == (200, 200)
