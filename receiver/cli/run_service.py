"""Runs the service for `kling-receiver serve`. Loads no parser of command lines and no terminal library."""

import gc
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

_CONFIG, _LOG_LEVEL = "--config", "--log-level"
_LEVELS = ("debug", "info", "warning", "error")


def run_service(config: Path | None, log_level: str | None) -> int:
    """Run the service until it is stopped, and return the exit code."""
    gc.disable()  # until start is complete: loaded modules are never freed, and collecting takes a fifth of the start
    leave_out_unused_modules()
    from receiver.service import logs
    from receiver.service.bootstrap import run
    from receiver.service.sighup import SighupHandler
    from receiver.settings import load

    sighup = SighupHandler.install()
    log_writer = logs.configure(log_level)
    try:
        return run(load(config), sighup)
    finally:
        if not log_writer.flush():  # the reader of the log does not read: an error's text would block too
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def leave_out_unused_modules() -> None:
    """Keep libraries from loading what the service never uses. That saves a tenth of the start, and 4 MiB.

    structlog would load greenlet if it is installed, pydantic all that finds plugins, and uvicorn its command line and
    what reads a configuration of logging.
    """
    sys.modules.setdefault("greenlet", None)  # type: ignore[arg-type]  # how Python spells "cannot be imported"
    command_line, plugins = ModuleType("uvicorn.main"), ModuleType("pydantic.plugin._loader")
    vars(command_line).update(Server=None, main=None, run=None)
    vars(plugins).update(get_plugins=tuple)
    for unused in (command_line, plugins):
        sys.modules.setdefault(unused.__name__, unused)
    logging_setup, parser = ModuleType("logging.config"), ModuleType("configparser")
    vars(parser).update(RawConfigParser=None)
    for unused in (logging_setup, parser):
        sys.modules.setdefault(unused.__name__, unused)
    import uvicorn.config  # noqa: F401 -- it takes the empty ones

    for unused in (logging_setup, parser):  # others get the real ones
        if sys.modules[unused.__name__] is unused:
            del sys.modules[unused.__name__]


def plain_options(argv: Sequence[str]) -> tuple[Path | None, str | None] | None:
    """Return configuration and log level of a plain `serve`, or None if *argv* is anything else.

    The service of a system manager starts in this way. The parser would take a tenth of its start and 5 MiB.
    """
    if argv[:1] != ["serve"]:
        return None
    names, values = argv[1::2], argv[2::2]
    options = dict(zip(names, values, strict=False))
    is_plain = len(names) == len(values) == len(options) and options.keys() <= {_CONFIG, _LOG_LEVEL}
    if not is_plain or any(value.startswith("-") for value in values):
        return None
    config, level = options.get(_CONFIG), options.get(_LOG_LEVEL)
    if config == "" or level not in (None, *_LEVELS):
        return None
    return None if config is None else Path(config), level
