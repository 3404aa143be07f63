"""Submitting and waiting, with and without the event stream."""

import json
from pathlib import Path

import pytest
from harness.fake_api import TASK_ID, FakeService, Json, make_event, make_task
from harness.run_cli import run_cli

from receiver.cli import main

RESULT = {
    "images": [{"index": 0, "url": "https://cdn.example/0.png"}, {"index": 1, "url": "https://cdn.example/1.png"}]
}
URLS = "https://cdn.example/0.png\nhttps://cdn.example/1.png\n"


class AnswerSequence:
    """What the service says of the task, one answer after the other; the last one stays."""

    def __init__(self, *answers: Json) -> None:
        self._answers = list(answers)

    def __call__(self) -> Json:
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]


def test_waiting_prints_only_the_results_to_stdout(
    service: FakeService, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service.answer(f"/api/tasks/{TASK_ID}", AnswerSequence(make_task(), make_task(state="succeed", result=RESULT)))

    code = main(["tasks", "wait", TASK_ID, "--config", str(config)])

    out, err = capsys.readouterr()
    assert code == 0
    assert out == URLS
    assert [line.split("  ")[-1] for line in err.splitlines()] == ["processing", "succeed"]


def test_archived_files_are_printed_as_results(
    service: FakeService, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assets = [{"url": "https://cdn.example/0.png", "path": "/var/lib/kling/0.png"}]
    service.answer(f"/api/tasks/{TASK_ID}", make_task(state="succeed", result=RESULT, assets=assets))

    assert main(["tasks", "wait", TASK_ID, "--config", str(config)]) == 0
    assert capsys.readouterr().out == "/var/lib/kling/0.png\nhttps://cdn.example/1.png\n"


def test_a_result_that_is_not_archived_is_printed_by_its_url(
    service: FakeService, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    urls = [f"https://cdn.example/{number}.png" for number in range(2)]
    result = {"images": [{"index": number, "url": url} for number, url in enumerate(urls)]}
    assets = [{"url": urls[1], "path": "/var/lib/kling/1.png"}, {"url": "https://cdn.example/w.png", "path": "/w.png"}]
    service.answer(f"/api/tasks/{TASK_ID}", make_task(state="succeed", result=result, assets=assets))

    assert main(["tasks", "wait", TASK_ID, "--config", str(config)]) == 0
    assert capsys.readouterr().out == f"{urls[0]}\n/var/lib/kling/1.png\n/w.png\n"


def test_waiting_includes_the_archiving_of_results(
    service: FakeService, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assets = [{"url": "https://cdn.example/0.png", "path": "/var/lib/kling/0.png"}]
    under_way = make_task(state="succeed", result=RESULT, archiving="awaited")
    course = AnswerSequence(make_task(), under_way, under_way, make_task(state="succeed", result=RESULT, assets=assets))
    service.answer(f"/api/tasks/{TASK_ID}", course)

    assert main(["tasks", "wait", TASK_ID, "--config", str(config)]) == 0

    out, err = capsys.readouterr()
    assert out.splitlines()[0] == "/var/lib/kling/0.png"
    assert [line.split("  ")[-1] for line in err.splitlines()] == [
        "processing", "succeed, archiving its results", "succeed",
    ]  # fmt: skip


def test_waiting_ends_without_results_that_are_archived_late(
    service: FakeService, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service.answer(f"/api/tasks/{TASK_ID}", make_task(state="succeed", result=RESULT, archiving="late"))

    assert main(["tasks", "wait", TASK_ID, "--config", str(config)]) == 0

    out, err = capsys.readouterr()
    assert out == URLS
    assert err.endswith(f"Some results are not archived yet. The reason: kling-receiver explain {TASK_ID}\n")


@pytest.mark.parametrize(("archiving", "message"), [("late", "is still tried"), (None, "was given up")])
def test_waiting_says_why_a_result_is_not_archived(
    service: FakeService, config: Path, capsys: pytest.CaptureFixture[str], archiving: str | None, message: str
) -> None:
    url = "https://cdn.example/0.png"
    task = make_task(state="succeed", result={"images": [{"url": f"{url}?key=s"}]}, archiving=archiving)
    missing = {"number": 0, "url": f"{url}?key=s", "reason": "404 Not Found", "still_tried": archiving is not None}
    service.answer(f"/api/tasks/{TASK_ID}", task)
    service.answer("/api/events", {"items": [make_event(results=[missing])], "next": None})

    code = main(["tasks", "wait", TASK_ID, "--config", str(config)])

    out, err = capsys.readouterr()
    assert (code, out) == (0, f"{url}?key=s\n")
    assert err.endswith(f"The download of {url} {message}: 404 Not Found\n")
    assert any("type=alert.asset_lost" in path for _, path, _ in service.requests)


@pytest.mark.parametrize(
    ("state", "words"), [("failed", "failed"), ("rejected", "was rejected"), ("expired", "has expired")]
)
def test_a_task_that_did_not_succeed_exits_with_1_and_its_reason(
    service: FakeService, config: Path, capsys: pytest.CaptureFixture[str], state: str, words: str
) -> None:
    service.answer(f"/api/tasks/{TASK_ID}", make_task(state=state, message="Image pixel is invalid"))

    code = main(["tasks", "wait", TASK_ID, "--config", str(config)])

    out, err = capsys.readouterr()
    assert code == 1
    assert out == ""
    assert err.splitlines()[-1] == f"kling-receiver: Task {TASK_ID} {words}: Image pixel is invalid."


def test_waiting_stops_at_its_timeout(service: FakeService, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    service.answer(f"/api/tasks/{TASK_ID}", make_task())

    code = main(["tasks", "wait", TASK_ID, "--timeout", "100ms", "--config", str(config)])

    assert code == 1
    assert "is still processing" in capsys.readouterr().err


def test_an_event_on_the_stream_refreshes_at_once(
    service: FakeService, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    queries = 0

    def answer() -> Json:
        nonlocal queries
        queries += 1
        if queries == 2:  # the look after the stream has begun
            service.send_event(make_event())
        return make_task(state="succeed" if queries > 2 else "processing", result=RESULT)

    service.answer(f"/api/tasks/{TASK_ID}", answer)

    assert main(["tasks", "wait", TASK_ID, "--timeout", "10s", "--config", str(config)]) == 0
    assert capsys.readouterr().out == URLS
    assert queries == 3


def test_without_a_stream_the_task_is_polled(
    service: FakeService, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service.has_stream = False
    service.answer(f"/api/tasks/{TASK_ID}", AnswerSequence(make_task(), make_task(state="succeed", result=RESULT)))

    assert main(["tasks", "wait", TASK_ID, "--config", str(config)]) == 0
    assert capsys.readouterr().out == URLS


def test_waiting_with_json_prints_the_task(
    service: FakeService, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = make_task(state="failed", message="no")
    service.answer(f"/api/tasks/{TASK_ID}", task)

    assert main(["tasks", "wait", TASK_ID, "--json", "--config", str(config)]) == 1
    assert json.loads(capsys.readouterr().out) == task


def test_submit_sends_all_its_options(
    service: FakeService, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = tmp_path / "cat.png"
    image.write_bytes(b"\x89PNG\r\n\x1a\n")
    body = tmp_path / "body.json"
    body.write_text('{"n": 1, "model_name": "kling-v2-1"}')
    service.answer("/api/tasks", make_task(state="submitting"), status=202)

    body_options = [
        "--body",
        f"@{body}",
        "--set",
        "n=2",
        "--set",
        "prompt=a cat",
        "--set",
        "watermark_info.enabled=false",
    ]
    image_options = ["--image", str(image), "--image", "https://img.example/dog.png"]
    other_options = ["--tag", "project=ads", "--label", "first", "--idempotency-key", "k1", "--config", str(config)]

    code = main(["submit", "/v1/images/multi-image2image", *body_options, *image_options, *other_options])

    assert code == 0
    assert capsys.readouterr().out == f"{TASK_ID}\n"
    assert service.requests == [
        (
            "POST",
            "/api/tasks",
            {
                "endpoint": "images/multi-image2image",
                "body": {
                    "model_name": "kling-v2-1",
                    "n": 2,
                    "prompt": "a cat",
                    "watermark_info": {"enabled": False},
                    "subject_image_list": [
                        {"subject_image": "iVBORw0KGgo="},
                        {"subject_image": "https://img.example/dog.png"},
                    ],
                },
                "label": "first",
                "tags": {"project": "ads"},
                "idempotency_key": "k1",
            },
        )
    ]


def test_a_body_may_come_from_stdin(service: FakeService, config: Path) -> None:
    service.answer("/api/tasks", make_task(state="queued"), status=202)

    ended = run_cli("submit", "images/generations", "--body", "-", "--config", config, stdin='{"prompt": "猫"}')

    assert ended.returncode == 0
    assert service.requests[0][2]["body"] == {"prompt": "猫"}


def test_submit_exits_with_1_if_kling_refuses(
    service: FakeService, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service.answer("/api/tasks", make_task(state="rejected", message="prompt is invalid"), status=202)

    code = main(["submit", "images/generations", "--set", "prompt=a cat", "--config", str(config)])

    captured = capsys.readouterr()
    assert code == 1
    assert captured.out == f"{TASK_ID}\n"
    assert "was rejected: prompt is invalid." in captured.err


def test_submit_can_wait_for_the_result(service: FakeService, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    service.answer("/api/tasks", make_task(state="queued"), status=202)
    service.answer(f"/api/tasks/{TASK_ID}", AnswerSequence(make_task(), make_task(state="succeed", result=RESULT)))

    code = main(["submit", "images/generations", "--set", "prompt=a cat", "--wait", "--config", str(config)])

    assert code == 0
    assert capsys.readouterr().out == URLS
