"""Rules of the log. Each test runs a process, because logging is set up once per process."""

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from receiver.domain.errors import ConfigurationError
from receiver.domain.model import Json
from receiver.service.logs import configure

ROOT = Path(__file__).parents[2]


def test_a_line_is_one_json_object_with_time_level_and_event_first() -> None:
    line = only_line(run_and_read("log.info('delivery.attempted', route='publish', code=200)"))

    assert list(line) == ["timestamp", "level", "event", "route", "code"]
    assert (line["level"], line["event"], line["route"], line["code"]) == ("info", "delivery.attempted", "publish", 200)
    assert line["timestamp"].endswith("Z")


def test_an_exception_keeps_its_traceback_in_the_same_line() -> None:
    line = only_line(run_and_read("try:\n    1 / 0\nexcept ZeroDivisionError:\n    log.exception('attempt.broken')"))

    assert line["level"] == "error"
    assert "ZeroDivisionError" in line["exception"]


@pytest.mark.parametrize(
    ("variable", "argument", "received"),
    [
        ({}, None, ["info", "warning"]),
        ({"KLING_RECEIVER_LOG": "warning"}, None, ["warning"]),
        ({"KLING_RECEIVER_LOG": "DEBUG"}, None, ["debug", "info", "warning"]),
        ({"KLING_RECEIVER_LOG": "error"}, "info", ["info", "warning"]),
    ],
)
def test_the_argument_outweighs_the_environment(
    variable: dict[str, str], argument: str | None, received: list[str]
) -> None:
    output = run_and_read("log.debug('a.said'); log.info('a.said'); log.warning('a.said')", level=argument, **variable)

    assert [json.loads(line)["level"] for line in output.splitlines()] == received


def test_an_unknown_level_is_an_error_with_source_and_remedy() -> None:
    with pytest.raises(
        ConfigurationError, match=r"KLING_RECEIVER_LOG: 'loud' is not a log level; use one of debug, info"
    ):
        configure(environ={"KLING_RECEIVER_LOG": "loud"})


def test_libraries_are_logged_from_warning_up() -> None:
    output = run_and_read(
        "for name in ('uvicorn.error', 'uvicorn.access', 'httpx2', 'httpcore2.http11', 'asyncio', 'any'):\n"
        "    logging.getLogger(name).info('GET /callbacks/abc')\n"
        "logging.getLogger('uvicorn.access').error('GET /callbacks/abc')\n"
        "logging.getLogger('uvicorn.error').warning('Invalid HTTP %s', 'request')\n"
        "warnings.warn('old', stacklevel=1)",
        level="debug",
    )

    lines = [json.loads(line) for line in output.splitlines()]
    assert [(line["logger"], line["level"]) for line in lines] == [
        ("uvicorn.error", "warning"),
        ("py.warnings", "warning"),
    ]
    assert lines[0]["event"] == "Invalid HTTP request"


def test_a_nested_secret_is_hidden() -> None:
    output = run_and_read(
        "log = log.bind(url='https://h/callbacks/CANARY')\n"
        "log.info('a.said', nested={'deep': ['Bearer CANARY-CANARY']}, raw=b'whsec_CANARY')\n"
        "logging.getLogger('any').error('at %s', 'https://h/callbacks/CANARY')\n"
        "try:\n    raise ValueError('POST /callbacks/CANARY')\nexcept ValueError:\n    log.exception('a.failed')"
    )

    assert "CANARY" not in output
    assert output.count("***") == 6


def test_a_terminal_gets_coloured_lines_without_foreign_escapes() -> None:
    shown = run_in_terminal("log.info('callback.accepted', message='a\\x1b]0;owned\\x07b')")

    assert "callback.accepted" in shown
    assert "\x1b[" in shown, "coloured"
    assert "\x1b]0;owned" not in shown
    assert "\\x1b]0;owned\\x07b" in shown


def test_a_terminal_gets_no_control_characters_of_values_or_tracebacks() -> None:
    shown = run_in_terminal(
        "try:\n    raise ValueError('\\x1b]0;owned\\u202e')\n"
        "except ValueError:\n    log.exception('a.failed', name='gnp\\u202e\\nexe')"
    )

    assert "\x1b]0;owned" not in shown
    assert "\u202e" not in shown
    assert "\\x1b]0;owned\\u202e" in shown
    assert "gnp\\u202e\\nexe" in shown.replace("\\\\", "\\")
    assert "Traceback (most recent call last):\r\n" in shown


def test_a_line_hides_configured_secrets() -> None:
    output = run_and_read(
        "from receiver.domain.redaction import Redactor\n"
        "from receiver.domain.secret import Secret\n"
        "log.info('a.said')\n"
        "logs.hide_secrets(Redactor([Secret('a plain \"word\"')]))\n"
        "log.info('a.said', nested={'deep': ['a plain \"word\"']})"
    )

    assert [json.loads(line).get("nested") for line in output.splitlines()] == [None, {"deep": ["***"]}]


def test_no_color_is_obeyed() -> None:
    assert "\x1b" not in run_in_terminal("log.info('callback.accepted')", NO_COLOR="1")


def test_a_full_disk_behind_the_log_stops_no_work() -> None:
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            program("log.info('a.said'); log.info('a.said'); print('worked')"),
            stdout=subprocess.PIPE,
            stderr=full,
            text=True,
            cwd=ROOT,
            check=False,
            timeout=30,
        )

    assert ended.stdout == "worked\n"


def test_logging_does_not_import_rich_and_does_not_prevent_it() -> None:
    output = run_and_read(
        "loaded = 'rich' in sys.modules\nimport rich\nlog.info('a.said', early=loaded, late='rich' in sys.modules)"
    )

    line = only_line(output)
    assert (line["early"], line["late"]) == (False, True)


TOGETHER = """
from receiver.domain.log_batch import log_together
from receiver.domain.request_id import begin_request
with log_together():
    log.info("a.said", value="bearer")
    log.info("b.said")
    for value in ("plain", "Bearer abcdefghijklmnop", chr(0xD800), 1 << 70, {"nested": "x"}, "a\\nb\\rc"):
        begin_request()
        log.info("a.said", value=value)
    log.warning("b.said")
"""


@pytest.mark.parametrize("format_", ["json", "logfmt", "console"])
def test_lines_that_are_logged_together_are_the_same_as_alone(format_: str) -> None:
    together = run_and_read(TOGETHER, KLING_RECEIVER_LOG_FORMAT=format_, NO_COLOR="1")
    alone = run_and_read(
        TOGETHER.replace("with log_together()", "if True"), KLING_RECEIVER_LOG_FORMAT=format_, NO_COLOR="1"
    )

    assert [_timeless(line) for line in together.splitlines()] == [_timeless(line) for line in alone.splitlines()]
    assert len(together.splitlines()) == 9
    assert "abcdefghijklmnop" not in together
    assert together.splitlines()[2].count("plain") == 1


ODD = """
class Broken:
    def __repr__(self): raise RuntimeError
class Text(str): pass
class Number(int): pass
endless, deep = {}, []
endless["self"] = endless
for _ in range(10_000): deep = [deep]
odd = (Broken(), [Broken()], Text("text"), Number(1), {(1, 2): 3}, {b"x": 1}, endless, deep, 10 ** 5000, [10 ** 5000])
for value in odd:
    with log_together():
        log.info("before.said", count=1)
        log.info("odd.said", kept="whole", value=value)
        log.info("after.said")
"""


@pytest.mark.parametrize("format_", ["json", "logfmt", "console"])
def test_a_value_that_cannot_be_rendered_loses_no_line_and_raises_no_error(format_: str) -> None:
    output = run_and_read(
        f"from receiver.domain.log_batch import log_together\n{ODD}", KLING_RECEIVER_LOG_FORMAT=format_, NO_COLOR="1"
    )

    said = [re.findall(r"(?:before|odd|after)\.said|count\"?[=:]1|[=\"]whole", line) for line in output.splitlines()]
    assert [[re.sub(r"\W", "", word) for word in line] for line in said] == [
        ["beforesaid", "count1"],
        ["oddsaid", "whole"],
        ["aftersaid"],
    ] * 10


def test_text_and_numbers_stay_what_they_are_whatever_their_class_and_size() -> None:
    output = run_and_read(
        "class Text(str): pass\nlog.info('a.said', value=Text('x'))\nlog.info('b.said', value=1 << 70)"
    )

    assert [json.loads(line)["value"] for line in output.splitlines()] == ["x", 1 << 70]


def test_the_writer_gets_the_lines_of_a_block_one_by_one() -> None:
    """It cuts a group between two lines, and counts those that it drops."""
    output = run_and_read(
        "from receiver.domain.log_batch import log_together\n"
        "writer = logs.LogWriter\n"
        "writer.write = lambda _, lines: print(len(lines), file=sys.stderr)\n"
        "with log_together():\n    log.info('a.said', text='one\\ntwo')\n    log.info('b.said')"
    )

    assert output == "2\n"


def _timeless(line: str) -> str:
    """Return a line without its time and the random part of its request id."""
    return re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z|[0-9a-f]{6}(?=-\d)", "", line)


def program(code: str, level: str | None = None) -> list[str]:
    setup = f"from receiver.service import logs\nimport logging, sys, warnings, structlog\nlogs.configure({level!r})\n"
    return [sys.executable, "-c", f"{setup}log = structlog.get_logger()\n{code}"]


def environment(variables: dict[str, str]) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "TERM": "xterm", **variables}


def run_and_read(code: str, *, level: str | None = None, **variables: str) -> str:
    ended = subprocess.run(
        program(code, level),
        env=environment(variables),
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
        timeout=30,
    )
    return ended.stderr


def only_line(output: str) -> Json:
    (line,) = output.splitlines()
    found: Json = json.loads(line)
    return found


def run_in_terminal(code: str, **variables: str) -> str:
    ours, its = pty.openpty()
    try:
        subprocess.run(program(code), env=environment(variables), stderr=its, cwd=ROOT, check=True, timeout=30)
        return os.read(ours, 10_000).decode()
    finally:
        os.close(ours)
        os.close(its)
