"""What the MCP server answers: a link to each result that has a valid URL, and an error to what it cannot read."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from harness.run_cli import clean_environment

from receiver.cli.mcp.answers import answer, result_links
from receiver.client import Task


def test_a_result_with_an_invalid_url_has_no_link_and_breaks_no_answer() -> None:
    urls = ["https://[x", "https:///no-host", "https://cdn.example.com/0.png"]
    task = Task.from_json({"id": "tsk_1", "state": "succeed", "result": {"images": [{"url": url} for url in urls]}})

    assert [link.uri for link in result_links(task)] == ["https://cdn.example.com/0.png"]


def test_half_of_a_surrogate_pair_in_a_body_breaks_no_answer() -> None:
    shown = answer({"kling": {"\ud800": ["a\udc00b", "\ud800" + "x" * 3000]}})

    assert "a?b" in shown.model_dump_json()


INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}},
}


async def talk(config: Path, *lines: str) -> list[dict[str, Any]]:
    """Send each line, and read one answer to it."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "receiver", "mcp", "--config", str(config),
        env=clean_environment(), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    answers = []
    for line in (json.dumps(INITIALIZE), *lines):
        process.stdin.write(line.encode() + b"\n")
        answers.append(json.loads(await asyncio.wait_for(process.stdout.readline(), 60)))
    process.stdin.close()
    assert await asyncio.wait_for(process.wait(), 60) == 0
    return answers[1:]


@pytest.mark.usefixtures("service")
async def test_a_message_that_cannot_be_read_is_answered_with_an_error(config: Path) -> None:
    call = '{"jsonrpc": "2.0", "id": %s, "method": "tools/call", "params": {"name": "tasks_read", "arguments": %s}}'

    answers = await talk(
        config,
        call % ("7", '{"label": "\\ud800"}'),
        call % ('"eight"', '{"label": "a\\udc00b"}'),
        call % ('"\\ud800"', "{}"),
        '{"jsonrpc": "2.0", "id": 9',
        '{"jsonrpc": "2.0", "id": 10, "method": 3}',
        '{"jsonrpc": "2.0", "id": 11, "method": "ping"}',
    )

    assert [each["id"] for each in answers] == [7, "eight", None, None, 10, 11]
    assert all("cannot be read" in each["error"]["message"] for each in answers[:5])
    assert "lone surrogates" in answers[0]["error"]["message"]
    assert answers[5]["result"] == {}
