"""The levels of log lines, by module: ``info,receiver.delivery=debug``."""

import logging
from collections.abc import Mapping
from pathlib import Path

import msgspec

from receiver.domain.errors import ConfigurationError

VARIABLE = "KLING_RECEIVER_LOG"
LEVELS: Mapping[str, int] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
_PACKAGE = "receiver"
_ROOT = Path(__file__).parents[1]


class LogLevels(msgspec.Struct, frozen=True, kw_only=True):
    """The least level that is logged, and those of some modules, each with everything below it."""

    default: int = logging.INFO
    by_module: Mapping[str, int] = msgspec.field(default_factory=dict)

    def of(self, module: str) -> int:
        """Return the level of a module: that of the longest name that contains it, else the default."""
        names = [name for name in self.by_module if f"{module}.".startswith(f"{name}.")]
        return self.by_module[max(names, key=len)] if names else self.default


def read_levels(level: str | None, environ: Mapping[str, str]) -> LogLevels:
    """Return the levels of the command's option, else of the environment. Raises ConfigurationError."""
    source = "--log-level" if level else VARIABLE
    default, by_module = logging.INFO, {}
    for part in (level or environ.get(VARIABLE) or "info").split(","):
        module, equals, word = part.strip().rpartition("=")
        number = _read_level(word, source)
        if equals:
            by_module[_read_module(module.strip(), source)] = number
        else:
            default = number
    return LogLevels(default=default, by_module=by_module)


def _read_level(word: str, source: str) -> int:
    try:
        return LEVELS[word.strip().lower()]
    except KeyError:
        raise ConfigurationError([f"{source}: {word!r} is not a log level; use one of {', '.join(LEVELS)}"]) from None


def _read_module(name: str, source: str) -> str:
    """Return the full name of a module of the receiver: ``delivery`` is ``receiver.delivery``."""
    full = name if f"{name}.".startswith(f"{_PACKAGE}.") else f"{_PACKAGE}.{name}"
    path = _ROOT.joinpath(*full.split(".")[1:])
    if not all(part.isidentifier() for part in full.split(".")) or not (
        path.is_dir() or path.with_suffix(".py").is_file()
    ):
        raise ConfigurationError(
            [f"{source}: {name!r} is not a module of the receiver; write it like receiver.delivery=debug"]
        )
    return full
