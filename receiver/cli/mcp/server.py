"""The MCP server: its tools, and how a call is checked. The only part that speaks the protocol."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.stdio import stdio_server
from mcp.types import CallToolResult, InputRequiredResult, ToolAnnotations

from receiver import __version__
from receiver.cli.mcp.reading import Connect, ReadingTools
from receiver.cli.mcp.unreadable import ReadableMessages
from receiver.cli.mcp.writing import WritingTools

_INSTRUCTIONS = (
    "Tasks of Kling AI (images, videos, audio) through one service. task_submit costs money; an equal call is never "
    "paid twice. task_explain says why a task or a delivery is where it is."
)
_READS = ToolAnnotations(read_only_hint=True, open_world_hint=False)
_SUBMITS = ToolAnnotations(read_only_hint=False, destructive_hint=False, idempotent_hint=True, open_world_hint=True)
_CANCELS = ToolAnnotations(read_only_hint=False, destructive_hint=True, idempotent_hint=True, open_world_hint=False)
_REPLAYS = ToolAnnotations(read_only_hint=False, destructive_hint=False, idempotent_hint=False, open_world_hint=True)

_Tool = Callable[..., Awaitable[CallToolResult]]


def serve(connect: Connect, *, read_only: bool) -> None:
    """Serve an agent over stdin and stdout until stdin ends. *connect* is called for each call of a tool."""
    asyncio.run(ToolServer(connect, read_only=read_only).run_stdio_async())


class ToolServer(MCPServer[Any]):
    """The tools of the service. With *read_only* those that change something are not offered and refused."""

    def __init__(self, connect: Connect, *, read_only: bool) -> None:
        super().__init__(
            "kling-receiver", instructions=_INSTRUCTIONS, version=__version__, log_level="WARNING", subscriptions=False
        )
        reading, writing = ReadingTools(connect), WritingTools(connect)
        reads: Sequence[_Tool] = (
            reading.tasks_read,
            reading.task_explain,
            reading.deliveries_read,
            reading.costs_read,
        )
        for tool in reads:
            self.add_tool(tool, annotations=_READS)
        writes: Mapping[_Tool, ToolAnnotations] = {
            writing.task_submit: _SUBMITS,
            writing.task_cancel: _CANCELS,
            writing.replay_write: _REPLAYS,
        }
        for tool, annotations in writes.items():
            if not read_only:
                self.add_tool(tool, annotations=annotations)
        self._refused = frozenset(tool.__name__ for tool in writes) if read_only else frozenset()

    async def run_stdio_async(self) -> None:
        """Serve over stdin and stdout. Each message is answered, also one that cannot be read."""
        async with stdio_server() as (messages, answers):
            server = self._lowlevel_server
            await server.run(ReadableMessages(messages, answers), answers, server.create_initialization_options())

    async def call_tool(
        self, name: str, arguments: dict[str, Any], context: Context[Any, Any] | None = None
    ) -> CallToolResult | InputRequiredResult:
        """Call a tool. An unknown argument is an error: a misspelled one must not change what is paid."""
        if name in self._refused:
            raise ToolError(f"{name} is not offered: this server was started with --read-only.")
        schemas = {tool.name: tool.input_schema for tool in await self.list_tools()}
        known = schemas.get(name, {}).get("properties", arguments)
        if unknown := sorted(arguments.keys() - known.keys()):
            raise ToolError(f"Unknown argument {unknown[0][:100]!r}. Expected: {', '.join(sorted(known))}.")
        return await super().call_tool(name, arguments, context)
