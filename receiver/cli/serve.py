"""`kling-receiver serve`: the service itself."""

import gc
from typing import Annotated, Literal

from cyclopts import Parameter

from receiver.cli.options import COMMON, CommonOptions


def serve(
    *,
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"] | None,
        Parameter(help="How much to log: debug, info, warning or error (default: info)."),
    ] = None,
    common: CommonOptions = COMMON,
) -> int:
    """Run the service until it is told to stop (SIGTERM or Ctrl-C)."""
    gc.disable()  # until the service stands: what is loaded stays, and looking through it is a fifth of the start
    from receiver.service import logs
    from receiver.service.bootstrap import run
    from receiver.settings import load

    logs.configure(log_level)
    return run(load(common.config))
