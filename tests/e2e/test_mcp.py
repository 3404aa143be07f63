"""An agent over MCP: the SDK's own client, the real command on its stdin and stdout, service and simulator."""

import json
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from harness.running_service import ENDPOINT, JOB, Receiver, a_config, a_kling, a_receiver, wait_for_state
from mcp import StdioServerParameters
from mcp.client import Client
from mcp.client.stdio import stdio_client
from mcp.types import CallToolResult, ResourceLink, TextContent

READS = ["costs_read", "deliveries_read", "task_explain", "tasks_read"]
WRITES = ["replay_write", "task_cancel", "task_submit"]


@asynccontextmanager
async def an_agent(receiver: Receiver, *options: str) -> AsyncIterator[Client]:
    """Start the command as an agent's program does."""
    server = StdioServerParameters(
        command=sys.executable,
        args=["-m", "receiver", "mcp", "--config", str(receiver.config_path), *options],
        env=dict(receiver.environ),
        cwd=receiver.folder,
    )
    with (receiver.folder / "mcp.log").open("a") as log:
        async with Client(stdio_client(server, errlog=log)) as client:
            yield client


def text(result: CallToolResult) -> str:
    return "\n".join(part.text for part in result.content if isinstance(part, TextContent))


def value(result: CallToolResult) -> Mapping[str, Any]:
    assert not result.is_error, text(result)
    structured: dict[str, Any] = result.structured_content
    return structured


def links(result: CallToolResult) -> Sequence[str]:
    return [part.uri for part in result.content if isinstance(part, ResourceLink)]


async def test_an_agent_submits_a_task_once_and_follows_it_to_its_results(tmp_path: Path) -> None:
    async with a_kling() as kling, a_receiver(tmp_path, a_config(kling.url)) as receiver, an_agent(receiver) as agent:
        reported: list[tuple[float, str]] = []

        async def record(progress: float, total: float | None, message: str | None) -> None:
            assert total is None
            reported.append((progress, message or ""))

        tools = {tool.name: tool for tool in (await agent.list_tools()).tools}
        call = {"endpoint": ENDPOINT, "body": JOB, "label": "mine", "tags": {"project": "ads"}, "wait": True}
        first = await agent.call_tool("task_submit", call, progress_callback=record)
        again = await agent.call_tool("task_submit", call | {"body": dict(reversed(JOB.items())), "wait": False})
        another = await agent.call_tool("task_submit", call | {"run": "2", "label": "other"})
        read = await agent.call_tool("tasks_read", {"task": value(first)["id"]})
        listed = await agent.call_tool("tasks_read", {"tags": {"project": "ads"}})
        explained = await agent.call_tool("task_explain", {"task": value(first)["id"]})
        labelled = await agent.call_tool("task_explain", {"task": "mine"})
        costs = await agent.call_tool("costs_read", {"by": "tag:project"})

        assert sorted(tools) == sorted(READS + WRITES)
        assert value(first)["state"] == "succeed"
        assert links(first) == [value(first)["result"]["images"][0]["url"]]
        assert [done for done, _ in reported] == sorted({done for done, _ in reported})
        assert reported[-1][1].startswith("succeed after")
        assert value(again)["id"] == value(first)["id"]
        assert "nothing was paid" in text(again)
        assert value(another)["id"] != value(first)["id"]
        assert kling.counts["created"] == 2
        assert links(read) == links(first)
        assert len(value(listed)["items"]) == 2
        assert value(explained)["task"]["id"] == value(labelled)["task"]["id"] == value(first)["id"]
        assert value(costs)["items"][0]["name"] == "ads"
        assert receiver.token not in "".join(text(each) for each in (first, again, read, explained, costs))
        assert receiver.token not in (tmp_path / "mcp.log").read_text()


async def test_an_agent_cancels_and_replays_and_gets_plain_errors(tmp_path: Path) -> None:
    route = '[[routes]]\nname = "done"\nscript = { command = ["/bin/true"] }\non = ["rejected"]\n'
    config = a_config("http://127.0.0.1:9", kling_more="slots = { image = 1 }", more=route)
    async with a_receiver(tmp_path, config) as receiver, an_agent(receiver) as agent:
        task = value(await agent.call_tool("task_submit", {"endpoint": ENDPOINT, "body": JOB}))
        cancelled = await agent.call_tool("task_cancel", {"task": task["id"], "why": "wrong prompt"})
        async with receiver.client() as client:
            await wait_for_state(client, task["id"], "cancelled")
        preview = await agent.call_tool("replay_write", {"task": task["id"], "to_route": "done", "dry_run": True})
        replayed = await agent.call_tool("replay_write", {"task": task["id"], "to_route": "done"})
        deliveries = await agent.call_tool("deliveries_read", {"task": task["id"]})

        listed = await agent.call_tool("tasks_read", {"state": "cancelled", "since": task["created_at"]})
        earlier = await agent.call_tool("tasks_read", {"state": ["cancelled"], "until": task["created_at"]})
        dead = await agent.call_tool("deliveries_read", {"status": "dead", "since": task["created_at"]})

        assert [each["id"] for each in value(listed)["items"]] == [task["id"]]
        assert value(earlier)["items"] == value(dead)["items"] == []
        assert value(cancelled)["state"] == "cancelled"
        assert "wrong prompt" in value(cancelled)["message"]
        assert value(preview)["total"] == 1
        assert value(replayed)["total"] == 1
        assert {each["route"] for each in value(deliveries)["items"]} == {"done"}
        mistakes: list[tuple[str, dict[str, Any], str]] = [
            ("tasks_read", {"task": "tsk_none"}, "There is no task 'tsk_none'"),
            ("task_submit", {"endpoint": ENDPOINT, "body": JOB, "prioritty": 1}, "Unknown argument 'prioritty'"),
            ("task_submit", {"endpoint": "images/none-such thing", "body": JOB}, "no asynchronous endpoint"),
            ("replay_write", {}, "Refusing to replay everything."),
            ("task_cancel", {}, "task"),
            ("tasks_read", {"state": "stopped"}, "found 'stopped'"),
            ("task_explain", {"task": "no-such-label"}, "There is no task 'no-such-label'"),
        ]
        for name, arguments, message in mistakes:
            wrong = await agent.call_tool(name, arguments)
            assert wrong.is_error
            assert message in text(wrong)


async def test_a_read_only_server_offers_no_tool_that_changes_something(tmp_path: Path) -> None:
    async with (
        a_receiver(tmp_path, a_config("http://127.0.0.1:9")) as receiver,
        an_agent(receiver, "--read-only") as agent,
    ):
        tools = [tool.name for tool in (await agent.list_tools()).tools]
        refused = await agent.call_tool("task_submit", {"endpoint": ENDPOINT, "body": JOB})
        listed = await agent.call_tool("tasks_read", {})

        assert sorted(tools) == READS
        assert refused.is_error
        assert "started with --read-only" in text(refused)
        assert value(listed)["items"] == []


async def test_a_tool_reports_that_the_service_is_down_and_works_again_after_it_is_up(tmp_path: Path) -> None:
    async with a_receiver(tmp_path, a_config("http://127.0.0.1:9")) as receiver, an_agent(receiver) as agent:
        assert await receiver.stop() == 0
        down = await agent.call_tool("tasks_read", {})
        await receiver.start()
        up = await agent.call_tool("tasks_read", {})

        assert down.is_error
        assert "kling-receiver serve" in text(down)
        assert value(up)["items"] == []


@pytest.mark.parametrize("module", ["mcp", "mcp_types"])
async def test_without_the_extra_the_command_says_how_to_install_it(tmp_path: Path, module: str) -> None:
    receiver = Receiver(tmp_path, a_config("http://127.0.0.1:9"))
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nsys.modules[{module!r}] = None\n")
    receiver.environ["PYTHONPATH"] = str(tmp_path)

    run = await receiver.run_cli_async("mcp")

    assert (run.returncode, run.stdout) == (1, "")
    assert "pip install 'kling-receiver[mcp]'" in run.stderr


async def test_nothing_but_the_protocol_is_on_stdout(tmp_path: Path) -> None:
    receiver = Receiver(tmp_path, a_config("http://127.0.0.1:9"))

    run = await receiver.run_cli_async("mcp")  # its stdin is empty

    assert (run.returncode, run.stdout) == (0, "")
    assert json.dumps("Traceback")[1:-1] not in run.stderr
