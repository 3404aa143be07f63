"""`kling-receiver serve`: runs the service."""

import gc
import os
import sys
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

    log_writer = logs.configure(log_level)
    try:
        return run(load(common.config))
    finally:
        if not log_writer.flush():  # the reader of the log does not read: an error's text would block too
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
