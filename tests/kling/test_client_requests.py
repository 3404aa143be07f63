"""The client sends creates and queries as Kling documents them."""

import json

import pytest
from harness.scripted_kling import (
    CREATED,
    ENDPOINT,
    KEY,
    NEW,
    Request,
    ScriptedAnswer,
    a_client,
    a_scripted_server,
    forward,
)

from receiver.domain.errors import (
    AuthenticationFailed,
    InvalidParameters,
    KlingError,
    KlingRefusal,
    KlingUncertain,
    ServerError,
    UnknownResource,
)
from receiver.domain.model import Json, TaskState


async def test_a_create_sends_the_body_unchanged_with_our_key() -> None:
    content = b'{ "prompt" : "\xe4\xbd\xa0", "aspect_ratio": " 2:3" }'
    async with a_scripted_server(ScriptedAnswer(document=CREATED)) as server, a_client(server.url) as kling:
        answer = await kling.create(ENDPOINT, content)

    (request,) = server.requests
    assert (request.method, request.target) == ("POST", "/v1/images/multi-image2image")
    assert request.body == content
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.headers["content-type"] == "application/json"
    assert answer.error is None
    assert answer.report is not None
    assert (answer.report.kling_id, answer.report.state) == ("867283741759111202", TaskState.SUBMITTED)
    assert json.loads(answer.body) == CREATED


@pytest.mark.parametrize(
    ("base", "endpoint", "target"),
    [
        ("/kling", ENDPOINT, "/kling/v1/images/multi-image2image"),
        ("/kling/", ENDPOINT, "/kling/v1/images/multi-image2image"),
        ("/kling/v1", ENDPOINT, "/kling/v1/images/multi-image2image"),
        ("/kling", "/v1/images/generations", "/kling/v1/images/generations"),
        ("", NEW, "/text-to-video/kling-3.0-turbo"),
        ("/kling", NEW, "/kling/text-to-video/kling-3.0-turbo"),
        ("", "images/unheard-of", "/v1/images/unheard-of"),
        ("", "odd/endpoint here", "/v1/odd/endpoint%20here"),
    ],
)
async def test_paths_are_joined_to_a_base_with_or_without_a_prefix(base: str, endpoint: str, target: str) -> None:
    async with a_scripted_server(ScriptedAnswer(document=CREATED)) as server, a_client(server.url + base) as kling:
        await kling.create(endpoint, b"{}")

    assert [request.target for request in server.requests] == [target]


@pytest.mark.parametrize(
    ("task_id", "segment"),
    [
        ("867283741759111202", "867283741759111202"),
        ("a/b?c#d e", "a%2Fb%3Fc%23d%20e"),
        ("..", "%2E%2E"),
        ("ü", "%C3%BC"),
    ],
)
async def test_a_query_encodes_the_task_id_as_one_path_segment(task_id: str, segment: str) -> None:
    done = {"code": 0, "data": {"task_id": "867283741759111202", "task_status": "succeed"}}
    async with a_scripted_server(ScriptedAnswer(document=done)) as server, a_client(server.url) as kling:
        answer = await kling.query(ENDPOINT, task_id)

    assert [(request.method, request.target) for request in server.requests] == [
        ("GET", f"/v1/images/multi-image2image/{segment}")
    ]
    assert answer.report is not None
    assert answer.report.state is TaskState.SUCCEED


async def test_a_new_api_task_is_queried_in_a_list_by_either_id() -> None:
    def script(request: Request) -> ScriptedAnswer:
        found = [{"id": "8", "external_id": "m 1", "status": "processing"}, {"id": "9", "status": "failed"}]
        return ScriptedAnswer(
            document={"code": 0, "data": found if "external_task_ids=m%201" in request.target else []}
        )

    async with a_scripted_server(script) as server, a_client(server.url) as kling:
        answer = await kling.query(NEW, "m 1")
        found = await kling.find_by_external_id(NEW, "m 1")

    assert [request.target for request in server.requests] == [
        "/tasks?task_ids=m%201",
        "/tasks?external_task_ids=m%201",
        "/tasks?external_task_ids=m%201",
    ]
    for report in (answer, found):
        assert report is not None
        assert report.report is not None
        assert (report.report.kling_id, report.report.state) == ("8", TaskState.PROCESSING)


async def test_a_batch_query_is_one_call_and_returns_each_tasks_original_bytes() -> None:
    one = '{"id": "8",  "status":"processing", "n": 1E3}'
    other = '{"status": "succeeded", "id": "9", "outputs": [{"type": "video", "url": "https://a.example/9.mp4"}]}'
    listed = f'{{"code": 0, "data": [ {one}, {other} , null, {{"id": "of another", "status": "failed"}}], "x": []}}'
    raw = f"HTTP/1.1 200 OK\r\ncontent-length: {len(listed)}\r\n\r\n{listed}".encode()

    async with a_scripted_server(ScriptedAnswer(raw=raw)) as server, a_client(server.url) as kling:
        reports = await kling.query_batch(NEW, ["8", "9", "10"])

    assert [request.target for request in server.requests] == ["/tasks?task_ids=8,9,10"]
    assert {kling_id: answer.body.decode() for kling_id, answer in reports.items()} == {"8": one, "9": other}
    states = {kling_id: answer.report and answer.report.state for kling_id, answer in reports.items()}
    assert states == {"8": TaskState.PROCESSING, "9": TaskState.SUCCEED}


@pytest.mark.parametrize(
    "document", [{"code": 0, "data": {}}, {"code": 0, "data": []}, {"code": 0}, {"data": [1, "a"]}]
)
async def test_a_batch_answer_without_tasks_returns_none(document: Json) -> None:
    async with a_scripted_server(ScriptedAnswer(document=document)) as server, a_client(server.url) as kling:
        assert await kling.query_batch(NEW, ["8", "9"]) == {}


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (ScriptedAnswer(document={"code": 1201, "message": "bad id"}, status=400), InvalidParameters),
        (ScriptedAnswer(document={"code": 5001}, status=503), ServerError),
        (ScriptedAnswer(status=404), UnknownResource),
        (ScriptedAnswer(raw=b""), KlingUncertain),
    ],
)
async def test_a_failed_batch_query_raises(answer: ScriptedAnswer, error: type[KlingError]) -> None:
    async with a_scripted_server(answer) as server, a_client(server.url) as kling:
        with pytest.raises(error):
            await kling.query_batch(NEW, ["8", "9"])

        assert len(server.requests) == 1


@pytest.mark.parametrize(
    "scripted",
    [
        ScriptedAnswer(document={"code": 1203, "message": "no such task"}, status=404),
        ScriptedAnswer(document={"code": 0, "message": "SUCCEED", "data": None}),
        ScriptedAnswer(document={"code": 0, "data": {}}),
        ScriptedAnswer(document={"code": 0, "data": []}),
    ],
)
async def test_a_task_unknown_to_kling_is_not_found(scripted: ScriptedAnswer) -> None:
    async with a_scripted_server(scripted) as server, a_client(server.url) as kling:
        answer = await kling.query(ENDPOINT, "1")
        found = await kling.find_by_external_id(ENDPOINT, "tsk_1")

    assert isinstance(answer.error, UnknownResource)
    assert found is None


@pytest.mark.parametrize("document", [b"<html>", {"detail": "Not Found"}])
async def test_a_404_in_another_shape_than_klings_proves_no_absence(
    document: bytes | dict[str, object],
) -> None:
    async with (
        a_scripted_server(ScriptedAnswer(document=document, status=404)) as server,
        a_client(server.url) as kling,
    ):
        with pytest.raises(UnknownResource):
            await kling.find_by_external_id(ENDPOINT, "tsk_1")


async def test_a_parameter_error_that_says_task_not_found_means_not_found() -> None:
    answer = ScriptedAnswer(document={"code": 1201, "message": "Task not found"}, status=400)
    async with a_scripted_server(answer) as server, a_client(server.url) as kling:
        assert await kling.find_by_external_id(ENDPOINT, "a b:c") is None

    assert server.requests[0].target == "/v1/images/multi-image2image/a%20b%3Ac"


@pytest.mark.parametrize("name", ["a/b", "a\\b", "50%2F", "a;b", ".."])
async def test_not_found_is_not_trusted_for_an_ambiguous_id(name: str) -> None:
    answer = ScriptedAnswer(document={"code": 1203, "message": "not found"}, status=404)
    async with a_scripted_server(answer) as server, a_client(server.url) as kling:
        with pytest.raises(UnknownResource):
            await kling.find_by_external_id(ENDPOINT, name)

    answer = ScriptedAnswer(document={"code": 0, "data": []})
    async with a_scripted_server(answer) as server, a_client(server.url) as kling:
        with pytest.raises(UnknownResource):
            await kling.find_by_external_id(NEW, "a,b")


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (ScriptedAnswer(document={"code": 1201, "message": "bad id"}, status=400), KlingRefusal),
        (ScriptedAnswer(document={"code": 5000}, status=500), ServerError),
        (ScriptedAnswer(document=b"<html>"), ServerError),
        (ScriptedAnswer(document={"code": 1002}, status=401), AuthenticationFailed),
        (
            ScriptedAnswer(document={"code": 0, "data": {"task_id": "2", "task_info": {"external_task_id": "b"}}}),
            KlingUncertain,
        ),
        (ScriptedAnswer(raw=b""), KlingUncertain),
    ],
)
async def test_an_inconclusive_lookup_raises(answer: ScriptedAnswer, error: type[KlingError]) -> None:
    async with a_scripted_server(answer) as server, a_client(server.url) as kling:
        with pytest.raises(error):
            await kling.find_by_external_id(ENDPOINT, "a")


async def test_a_create_never_uses_an_idle_connection() -> None:
    async with a_scripted_server(ScriptedAnswer(document=CREATED)) as server, a_client(server.url) as kling:
        await kling.query(ENDPOINT, "1")
        await kling.query(ENDPOINT, "1")
        assert len(server.connection_tasks) == 1

        await kling.create(ENDPOINT, b"{}")
        await forward(kling, "POST", "v1/new/endpoint", content=b"{}")

        assert len(server.connection_tasks) == 3
