"""Logging: JSON lines or logfmt, or coloured lines on a terminal.

Every module logs through ``structlog.get_logger()``. Libraries that use :mod:`logging` write to the same stream.
Import this module before any other that imports structlog, to keep the start fast.
"""

import atexit
import json
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeAlias

import msgspec

from receiver.domain.clock import iso_micros
from receiver.domain.control_characters import escape_text
from receiver.domain.log_batch import write_line
from receiver.domain.redaction import Redactor
from receiver.domain.request_id import request_id
from receiver.service.log_formats import LogFormat, read_format, to_logfmt
from receiver.service.log_levels import LEVELS, VARIABLE, LogLevels, read_levels
from receiver.service.log_writer import LogWriter

# structlog imports rich if it is installed, for tracebacks that we do not use. That costs 35 ms and 5 MiB.
_rich_is_absent = "rich" not in sys.modules
if _rich_is_absent:
    sys.modules["rich"] = None  # type: ignore[assignment]  # how Python spells "cannot be imported"
import structlog  # noqa: E402 - must follow the block above

if _rich_is_absent:
    del sys.modules["rich"]

Line: TypeAlias = Mapping[str, object]

_STDERR = 2
_METHODS = (*LEVELS, "critical", "exception", "log", "is_enabled_for", "get_effective_level")
_PLAIN = (str, int, float, type(None))
_PLAIN_TYPES = frozenset({*_PLAIN, bool})
_encode_plain = msgspec.json.Encoder().encode
_encode_plain_lines = msgspec.json.Encoder().encode_lines
_encode_any = json.JSONEncoder(default=repr, separators=(",", ":")).encode


def configure(level: str | None = None, *, environ: Mapping[str, str] = os.environ) -> LogWriter:
    """Set up logging to stderr for the whole process. Return its writer, which is flushed at exit.

    *level* is debug, info, warning or error, also by module. The default is ``KLING_RECEIVER_LOG``, else that of the
    configuration (:func:`set_configured_level`), else info. Raises ConfigurationError for an unknown level, module or
    format.
    """
    levels = read_levels(level, environ)
    _level.is_fixed = bool(level or environ.get(VARIABLE))
    format_ = read_format(environ, on_terminal=os.isatty(_STDERR))
    is_console = format_ is LogFormat.CONSOLE
    writer = LogWriter(_STDERR, report_dropped=_report_dropped)
    atexit.register(writer.flush)
    structlog.configure(
        processors=_console_processors(colors="NO_COLOR" not in environ) if is_console else [],
        wrapper_class=_wrapper_class(levels, is_console=is_console),
        logger_factory=partial(_same, _LineLogger(writer, _to_logfmt if format_ is LogFormat.LOGFMT else _to_json)),
        cache_logger_on_first_use=True,
    )
    _capture_libraries()
    return writer


def set_configured_level(level: str) -> None:
    """Use the level of the configuration, also in loggers that exist. An option or the environment has precedence."""
    if not _level.is_fixed:
        _level.set(LEVELS[level])


class _Level:
    """The minimum level. It also changes in loggers that exist: the methods of their class are replaced."""

    def __init__(self) -> None:
        self.is_fixed = False
        self._make: Callable[[int], type] = structlog.make_filtering_bound_logger
        self._logger: type = self._make(logging.NOTSET)

    def use(self, make: Callable[[int], type], threshold: int) -> type:
        """Return the class of the loggers to come, made by *make*."""
        self._make, self._logger = make, make(threshold)
        return self._logger

    def set(self, threshold: int) -> None:
        """Log only lines of this level and above."""
        other = self._make(threshold)
        for name in _METHODS:
            if hasattr(other, name):
                setattr(self._logger, name, getattr(other, name))


_level = _Level()


class _LineRedactor:
    """Redacts finished lines, so that nested values and tracebacks are covered too."""

    def __init__(self) -> None:
        self.redactor = Redactor()  # knows no secrets until they are loaded, but how secrets look

    def __call__(self, _logger: object, _method: str, line: Any) -> str:  # noqa: ANN401 - the renderer's output
        return self.redactor.text(line)


_redact_line = _LineRedactor()


def hide_secrets(redactor: Redactor) -> None:
    """Hide the secrets that *redactor* knows in every line from now on."""
    _redact_line.redactor = redactor


def _wrapper_class(levels: LogLevels, *, is_console: bool) -> Any:  # noqa: ANN401 -- structlog makes the classes
    """Return what makes the logger of a module. structlog keeps it, so its module is looked up once."""

    def logger_class(level: int) -> Any:  # noqa: ANN401 -- as above
        return structlog.make_filtering_bound_logger(level) if is_console else _line_logger(level)

    if not levels.by_module:
        return _level.use(logger_class, levels.default)

    def make(logger: object, processors: object, context: object) -> object:
        frame = sys._getframe(1)  # noqa: SLF001 -- the only way to know which module logs, as structlog does it
        while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("structlog"):
            frame = frame.f_back
        level = levels.of(frame.f_globals.get("__name__", ""))
        return logger_class(level)(logger, processors=processors, context=context)

    return make


class _LineBoundLogger(structlog.BoundLoggerBase):
    """A logger of lines with structlog's methods. Its own one has no part but calls seven functions per line."""

    def log(self, level: int, event: str, **values: object) -> None:
        """Log a line at a level of :mod:`logging`."""
        getattr(self, logging.getLevelName(level).lower(), self.error)(event, **values)

    def error(self, event: str, **values: object) -> None:
        """Log an error, at any threshold."""
        self._logger.put(_line("error", event, {**self._context, **values}))

    def exception(self, event: str, **values: object) -> None:
        """Log an error with the exception being handled."""
        self._logger.put(_line("error", event, {**self._context, "exc_info": True, **values}))

    critical = error


def _line_logger(threshold: int) -> type[_LineBoundLogger]:
    """Return the logger whose methods below a level do nothing."""

    def writes(level: str) -> Callable[..., None]:
        def log(self: _LineBoundLogger, event: str, **values: object) -> None:
            self._logger.put(_line(level, event, {**self._context, **values} if self._context else values))

        return log

    def ignores(_self: _LineBoundLogger, _event: str, **_values: object) -> None: ...

    levels = {name: writes(name) if level >= threshold else ignores for name, level in LEVELS.items()}
    return type("LineLogger", (_LineBoundLogger,), levels)


def _line(level: str, event: str, values: Mapping[str, object]) -> Line:
    """Return a line. Timestamp, level and event come first, because people read the lines too.

    All lines of a request have its id.
    """
    if "exc_info" in values:
        values = structlog.processors.format_exc_info(None, level, dict(values))
    line = {"timestamp": iso_micros(datetime.now(UTC)), "level": level, "event": event, **values}
    if (request := request_id()) is not None:
        line["request"] = request
    return line


def _to_json(lines: Sequence[Line]) -> str:
    """Return lines as JSON: quickly if all values are plain, else with ``repr`` for what JSON does not know."""
    if all(_PLAIN_TYPES.issuperset(map(type, line.values())) for line in lines):
        try:
            return _encode_plain_lines(lines).decode()
        except (ValueError, OverflowError):  # half of a surrogate pair, or a number of more than 64 bits
            pass
    return "".join(f"{_line_to_json(line)}\n" for line in lines)


def _line_to_json(line: Line) -> str:
    if all(isinstance(value, _PLAIN) for value in line.values()):
        try:
            return _encode_plain(line).decode()
        except (TypeError, ValueError, OverflowError):  # as above, or a class of its own for text or numbers
            pass
    return _encode_any(line)


def _to_logfmt(lines: Sequence[Line]) -> str:
    return "".join(f"{to_logfmt(line)}\n" for line in lines)


def _console_processors(*, colors: bool) -> list[structlog.typing.Processor]:
    return [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _add_request,
        _escape_values,
        structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback),
        _redact_line,
    ]


def _add_request(_logger: object, _method: str, line: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Add the id of the request that is being handled."""
    request = request_id()
    return line if request is None else {**line, "request": request}


def _escape_values(_logger: object, _method: str, line: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Escape control characters, because untrusted text must not control the terminal."""
    return {
        key: escape_text(value, keep="\n" if key == "exception" else "")
        if isinstance(value, str)
        else _renderable(value)
        for key, value in line.items()
    }


def _report_dropped(lines: int) -> None:
    reason = "The log's reader did not read, or the log could not be written."
    structlog.get_logger().error("log.dropped", lines=lines, reason=reason)


class _LineLogger:
    """Renders lines, those of a block together, and passes them to the writer."""

    def __init__(self, writer: LogWriter, render: Callable[[Sequence[Line]], str]) -> None:
        """*render* returns lines as text, each with a line break."""
        self._writer = writer
        self._render = render
        self._write_lines = self._write_all  # one object, by which a block knows its lines

    def put(self, line: Line) -> None:
        """Log a line."""
        write_line(line, self._write_lines)

    def _write_all(self, lines: Sequence[Line]) -> None:
        """Write lines. They are redacted as text, so that nested values and tracebacks are covered too."""
        text = self._text(lines)
        if _redact_line.redactor.text(text) != text:  # hardly any has a secret, so all are searched at once
            text = "".join(_redact_line.redactor.text(self._text((line,))) for line in lines)
        self._writer.write(_encoded(text).splitlines(keepends=True))

    def _text(self, lines: Sequence[Line]) -> str:
        """Return lines as text. A value that cannot be rendered loses neither a line nor the work that logs it."""
        try:
            return self._render(lines)
        except Exception:  # noqa: BLE001 -- a ``repr`` may raise anything
            if len(lines) > 1:
                return "".join(self._text((line,)) for line in lines)
        return self._render([{key: _as_text(value) for key, value in line.items()} for line in lines])

    def msg(self, line: str) -> None:
        """Log a line that is text already."""
        write_line(_encoded(f"{line}\n"), self._writer.write)

    debug = info = warning = error = critical = exception = msg


def _as_text(value: object) -> str:
    return value if type(value) is str else repr(_renderable(value))


def _renderable(value: object) -> object:
    """Return a value, or its type if its ``repr`` raises an error."""
    try:
        repr(value)
    except Exception:  # noqa: BLE001 -- it may raise anything, also for a number that is too long or nested too deeply
        return type(value)
    return value


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")


def _same(logger: _LineLogger, *_: object) -> _LineLogger:
    return logger


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
