"""The formats of log lines: JSON, logfmt, or coloured lines for a terminal."""

import json
from collections.abc import Mapping
from enum import StrEnum

from receiver.domain.errors import ConfigurationError

VARIABLE = "KLING_RECEIVER_LOG_FORMAT"


class LogFormat(StrEnum):
    """How a log line is written."""

    JSON = "json"
    LOGFMT = "logfmt"
    CONSOLE = "console"


def read_format(environ: Mapping[str, str], *, on_terminal: bool) -> LogFormat:
    """Return the format of the environment; by default lines for people on a terminal, else JSON."""
    word = environ.get(VARIABLE) or (LogFormat.CONSOLE if on_terminal else LogFormat.JSON)
    try:
        return LogFormat(word.lower())
    except ValueError:
        raise ConfigurationError(
            [f"{VARIABLE}: {word!r} is not a log format; use one of {', '.join(LogFormat)}"]
        ) from None


def to_logfmt(line: Mapping[str, object]) -> str:
    """Return a line as ``key=value`` pairs. A value with spaces, quotes or control characters is quoted as in JSON."""
    return " ".join(f"{key}={_value(value)}" for key, value in line.items())


def _value(value: object) -> str:
    match value:
        case None:
            return ""
        case bool():
            return str(value).lower()
        case str():
            text = str(value)
        case int() | float():
            return str(value)
        case _:
            text = json.dumps(value, default=repr, ensure_ascii=False, separators=(",", ":"))
    is_plain = text.isprintable() and text and not set(text) & set(' ="\\')
    return text if is_plain else json.dumps(text)
