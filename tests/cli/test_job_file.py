"""A file of jobs is checked before any job is submitted. Each line has its own key."""

import json
from pathlib import Path
from typing import Any

import pytest
from harness.fake_api import FakeService
from harness.run_cli import run_cli

from receiver.cli.job_file import JobDefaults, is_job_file, read_jobs
from receiver.cli.options import UsageError
from receiver.kling.endpoints import resolve
from receiver.settings import Dialect

IMAGES = resolve("images/generations")
GIVEN = JobDefaults(endpoint=IMAGES, dialect=Dialect.OFFICIAL, tags={"project": "a"}, priority=3)


def write(folder: Path, *lines: object) -> Path:
    path = folder / "jobs.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


def keys(folder: Path, *lines: object, **given: Any) -> list[str]:
    arguments = {"endpoint": IMAGES, "dialect": Dialect.OFFICIAL} | given
    return [job.key for job in read_jobs(write(folder, *lines), JobDefaults(**arguments))]


def test_a_line_is_a_job_or_a_body_for_the_given_endpoint(tmp_path: Path) -> None:
    whole = {"endpoint": "videos/text2video", "body": {"prompt": "b"}, "label": "mine", "tags": {"x": "y"}}

    bare, full = read_jobs(write(tmp_path, {"prompt": "a"}, "", whole | {"priority": 0, "batch": "b1"}), GIVEN)

    assert (bare.line, bare.endpoint, bare.body, bare.priority) == (1, IMAGES, {"prompt": "a"}, 3)
    assert (full.line, full.endpoint.path, full.body) == (3, "videos/text2video", {"prompt": "b"})
    assert (full.label, full.tags, full.priority, full.batch) == ("mine", {"project": "a", "x": "y"}, 0, "b1")


def test_byte_order_marks_are_ignored(tmp_path: Path) -> None:
    path = tmp_path / "jobs.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"prompt": "a"}\r\n\xef\xbb\xbf{"prompt": "b"}\r\n\xef\xbb\xbf\r\n')

    assert [job.body for job in read_jobs(path, GIVEN)] == [{"prompt": "a"}, {"prompt": "b"}]


def test_all_invalid_lines_are_reported_at_once(tmp_path: Path) -> None:
    good = {"body": {"prompt": "a"}}
    path = write(
        tmp_path,
        good,
        "{",
        "[1]",
        good | {"endpoint": "no/such/thing"},
        good | {"tagz": {}},
        good | {"priority": "high"},
        good | {"image": "none.png"},
        good,
    )

    with pytest.raises(UsageError) as raised:
        read_jobs(path, GIVEN)

    lines = raised.value.message.splitlines()
    assert lines[0] == f"6 lines of {path} are not jobs; nothing was submitted:"
    assert [line.partition(":")[0] for line in lines[1:]] == [f"  line {number}" for number in range(2, 8)]
    assert "'tagz'" in raised.value.message


def test_a_truncated_line_is_reported_by_its_number_only(tmp_path: Path) -> None:
    path = write(tmp_path, {"prompt": "a"}, '{"prompt": "b",', {"prompt": "c"})

    with pytest.raises(UsageError) as raised:
        read_jobs(path, GIVEN)

    _, line = raised.value.message.splitlines()
    assert line.startswith("  line 2: The body is not JSON: ")
    assert line.endswith(", column 16.")


def test_a_repeated_line_gets_a_key_of_its_own(tmp_path: Path) -> None:
    first = keys(tmp_path, {"prompt": "a"}, {"prompt": "b"}, {"prompt": "a"})

    assert len(set(first)) == 3
    assert keys(tmp_path, {"prompt": "a"}, {"prompt": "a"}, {"prompt": "b"}, {"prompt": "c"})[:3] == [
        first[0],
        first[2],
        first[1],
    ]
    assert not set(first) & set(keys(tmp_path, {"prompt": "a"}, {"prompt": "b"}, run="again"))
    assert not set(first) & set(keys(tmp_path, {"prompt": "a"}, tags={"project": "b"}))
    assert keys(tmp_path, {"body": {"prompt": "a"}, "idempotency_key": "mine"}) == ["mine"]


def test_a_job_file_is_recognized_by_its_name() -> None:
    assert [is_job_file(name) for name in ("@jobs.jsonl", "@jobs.ndjson", "@job.json", "{}", "-", None)] == [
        *[True] * 2,
        *[False] * 4,
    ]


def test_an_invalid_line_exits_with_2_and_submits_nothing(tmp_path: Path, service: FakeService, config: Path) -> None:
    path = write(tmp_path, {"prompt": "a"}, "nonsense")

    done = run_cli("submit", "images/generations", "--body", f"@{path}", "--config", config)

    assert done.returncode == 2
    assert "line 2" in done.stderr
    assert done.stdout == ""
    assert service.requests == []
