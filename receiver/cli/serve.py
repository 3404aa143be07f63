"""`kling-receiver serve`: runs the service."""

import gc
from typing import Annotated, Literal

from cyclopts import Parameter

from receiver.cli.options import COMMON, CommonOptions


def serve(
    *,
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"] | None,
        Parameter(help="Minimum level to log: debug, info, warning or error (default: info)."),
    ] = None,
    common: CommonOptions = COMMON,
) -> int:
    """Run the service until SIGTERM or Ctrl-C."""
    gc.disable()  # until start is complete: loaded modules are never freed, and collecting takes a fifth of the start
    from receiver.service import logs
    from receiver.service.bootstrap import run
    from receiver.settings import load

    logs.configure(log_level)
    return run(load(common.config))
