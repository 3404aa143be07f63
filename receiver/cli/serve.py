"""`kling-receiver serve`: runs the service."""

from typing import Annotated, Literal

from cyclopts import Parameter

from receiver.cli.options import COMMON, CommonOptions
from receiver.cli.run_service import run_service


def serve(
    *,
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"] | None,
        Parameter(help="Minimum level to log: debug, info, warning or error (default: info)."),
    ] = None,
    common: CommonOptions = COMMON,
) -> int:
    """Run the service until SIGTERM or Ctrl-C."""
    return run_service(common.config, log_level)
