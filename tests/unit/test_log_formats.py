"""Log lines as logfmt, by module, and with the id of their request."""

import json

import pytest
from unit.test_logs import run_and_read

from receiver.domain.errors import ConfigurationError
from receiver.service.log_formats import read_format, to_logfmt


def test_a_value_is_quoted_if_it_needs_it() -> None:
    line = {
        "event": "a.said",
        "count": 3,
        "ratio": 0.5,
        "ok": True,
        "none": None,
        "empty": "",
        "text": 'two "words"',
        "lines": "a\nb=c",
        "list": [1, "x"],
        "path": "/a/b:c",
    }

    assert to_logfmt(line) == (
        'event=a.said count=3 ratio=0.5 ok=true none= empty="" text="two \\"words\\"" lines="a\\nb=c" '
        'list="[1,\\"x\\"]" path=/a/b:c'
    )


def test_logfmt_is_a_choice_and_hides_secrets() -> None:
    output = run_and_read(
        "log.info('a.said', url='https://h/callbacks/CANARY', why='two words')", KLING_RECEIVER_LOG_FORMAT="logfmt"
    )

    (line,) = output.splitlines()
    assert line.startswith("timestamp=2")
    assert line.endswith(' level=info event=a.said url=https://h/callbacks/*** why="two words"')


def test_the_default_depends_on_the_terminal_and_an_unknown_format_is_an_error() -> None:
    assert (read_format({}, on_terminal=True), read_format({}, on_terminal=False)) == ("console", "json")
    with pytest.raises(ConfigurationError, match="'xml' is not a log format; use one of json, logfmt, console"):
        read_format({"KLING_RECEIVER_LOG_FORMAT": "xml"}, on_terminal=False)


def test_a_module_has_its_own_level() -> None:
    code = (
        "import types\n"
        "for name in ('receiver.delivery.retry', 'receiver.web.auth'):\n"
        "    there = types.ModuleType(name).__dict__\n"
        "    exec('import structlog; log = structlog.get_logger()\\n'\n"
        '         \'def say(): log.debug("a.said", module=__name__); log.info("b.said", module=__name__)\', there)\n'
        "    there['say'](); there['say']()"
    )

    lines = [json.loads(line) for line in run_and_read(code, KLING_RECEIVER_LOG="info,delivery=debug").splitlines()]

    assert [(line["module"], line["level"]) for line in lines] == [
        *[("receiver.delivery.retry", "debug"), ("receiver.delivery.retry", "info")] * 2,
        *[("receiver.web.auth", "info")] * 2,
    ]


@pytest.mark.parametrize("format_", ["json", "logfmt", "console"])
def test_the_lines_of_a_request_have_its_id(format_: str) -> None:
    code = (
        "import asyncio\nfrom receiver.domain.request_id import begin_request\n"
        "async def handle():\n"
        "    begin_request(); log.info('a.said'); await asyncio.sleep(0); log.info('b.said')\n"
        "async def main():\n"
        "    await asyncio.gather(*(asyncio.create_task(handle()) for _ in range(2))); log.info('c.said')\n"
        "asyncio.run(main())"
    )

    lines = run_and_read(code, KLING_RECEIVER_LOG_FORMAT=format_, NO_COLOR="1").splitlines()

    found = [line.partition("request")[2].strip('":= },') for line in lines]
    assert found == [found[0], found[1], found[0], found[1], ""]
    assert len(set(found)) == 3
