"""The command. It works without the extra `mcp` up to the point where the server starts."""

from datetime import timedelta
from typing import Annotated

from cyclopts import Parameter

from receiver.cli import OK
from receiver.cli.options import CLIENT, ClientOptions
from receiver.domain.errors import ReceiverError

_OUTAGE_TOLERANCE = timedelta(seconds=5)  # an agent can call again; a restart of the service takes less


def mcp(
    *,
    read_only: Annotated[bool, Parameter(help="Offer only the tools that read.")] = False,
    output: ClientOptions = CLIENT,
) -> int:
    """Serve the tools of an agent over stdin and stdout (MCP). An agent's program starts this command itself."""
    try:
        from receiver.cli.mcp.server import serve
    except ModuleNotFoundError as exc:
        if (exc.name or "").partition(".")[0] not in ("mcp", "mcp_types"):
            raise
        raise ReceiverError(
            "The extra `mcp` is not installed.",
            remedy="In a checkout: make mcp, else: pip install 'kling-receiver[mcp]'.",
        ) from exc
    serve(lambda: output.connect_async(outage_tolerance=_OUTAGE_TOLERANCE), read_only=read_only)
    return OK
