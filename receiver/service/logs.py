"""Logging: JSON lines, or coloured lines on a terminal.

Every module logs through ``structlog.get_logger()``. Libraries that use :mod:`logging` write to the same stream.
Import this module before any other that imports structlog, to keep the start fast.
"""

import json
import logging
import os
import re
import sys
from collections.abc import Mapping
from typing import Any, TextIO

from receiver.domain.errors import ConfigurationError
from receiver.domain.redaction import Redactor

# structlog imports rich if it is installed, for tracebacks that we do not use. That costs 35 ms and 5 MiB.
_rich_is_absent = "rich" not in sys.modules
if _rich_is_absent:
    sys.modules["rich"] = None  # type: ignore[assignment]  # how Python spells "cannot be imported"
import structlog  # noqa: E402 - must follow the block above

if _rich_is_absent:
    del sys.modules["rich"]

LEVEL_VARIABLE = "KLING_RECEIVER_LOG"
LEVELS: Mapping[str, int] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}

_redactor = Redactor()
_CONTROL_CHARACTERS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def configure(
    level: str | None = None, *, stream: TextIO | None = None, environ: Mapping[str, str] = os.environ
) -> None:
    """Set up logging for the whole process.

    *level* is debug, info, warning or error. The default is ``KLING_RECEIVER_LOG``, else info.
    Raises ConfigurationError for an unknown level.
    """
    stream = stream or sys.stderr
    threshold = _threshold(level, environ)
    on_terminal = stream.isatty()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *(_console_processors(colors="NO_COLOR" not in environ) if on_terminal else _json_processors()),
            _redact_line,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=lambda *_: _LineWriter(stream),
        cache_logger_on_first_use=True,
    )
    _capture_libraries()


def redact(text: str) -> str:
    """Return *text* with everything that looks like a secret replaced by ``***``."""
    return _redactor.text(text)


def _threshold(level: str | None, environ: Mapping[str, str]) -> int:
    name = level or environ.get(LEVEL_VARIABLE) or "info"
    try:
        return LEVELS[name.lower()]
    except KeyError:
        source = "--log-level" if level else LEVEL_VARIABLE
        raise ConfigurationError([f"{source}: {name!r} is not a log level; use one of {', '.join(LEVELS)}"]) from None


def _json_processors() -> list[structlog.typing.Processor]:
    write = json.JSONEncoder(default=repr).encode  # created once; json.dumps would create an encoder for each line
    return [structlog.processors.format_exc_info, _order_keys, lambda _logger, _method, line: write(line)]


def _console_processors(*, colors: bool) -> list[structlog.typing.Processor]:
    tracebacks = structlog.dev.plain_traceback
    return [_escape_values, structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=tracebacks)]


def _order_keys(_logger: object, _method: str, line: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Move timestamp, level and event to the front, because people read the JSON lines too."""
    return {"timestamp": line.pop("timestamp"), "level": line.pop("level"), "event": line.pop("event"), **line}


def _escape_values(_logger: object, _method: str, line: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Escape control characters, because untrusted text must not control the terminal."""
    return {key: _escape(value) if isinstance(value, str) else value for key, value in line.items()}


def _escape(text: str) -> str:
    return _CONTROL_CHARACTERS.sub(lambda match: f"\\x{ord(match[0]):02x}", text)


def _redact_line(_logger: object, _method: str, line: Any) -> str:  # noqa: ANN401 - the renderer's output
    """Redact the finished line, so that nested values and tracebacks are covered too."""
    return redact(line)


class _LineWriter:
    """Writes lines. A full disk or a closed pipe loses the line, but never fails the work that logs it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def msg(self, line: str) -> None:
        try:
            self._stream.write(line + "\n")
            self._stream.flush()
        except (OSError, ValueError):  # ValueError: the stream was closed
            return

    debug = info = warning = error = critical = exception = msg


class _StdlibHandler(logging.Handler):
    """Forwards libraries' log records to structlog."""

    def emit(self, record: logging.LogRecord) -> None:
        structlog.get_logger().log(
            record.levelno, record.getMessage(), logger=record.name, exc_info=record.exc_info or None
        )


def _capture_libraries() -> None:
    """Forward libraries' records from warning up, at every level of ours: below it they log URLs, headers and paths."""
    root = logging.getLogger()
    root.handlers = [_StdlibHandler()]
    root.setLevel(logging.WARNING)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.asgi", "httpx2", "httpcore2", "asyncio"):
        library = logging.getLogger(name)
        library.handlers.clear()
        library.propagate = True
        library.setLevel(logging.WARNING)
    logging.getLogger("uvicorn.access").disabled = True
    logging.captureWarnings(True)  # noqa: FBT003 - a positional-only parameter
