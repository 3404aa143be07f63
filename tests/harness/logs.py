"""The log format of the tests, and captured log lines."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import structlog


def configure_plain_logs() -> None:
    """Log plainly in tests: structlog's default, in colour, is slower than the tests."""
    structlog.reset_defaults()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            structlog.processors.KeyValueRenderer(key_order=["level", "event"]),
        ]
    )


@contextmanager
def capture_logs() -> Iterator[list[structlog.typing.EventDict]]:
    """Collect the log lines of a block, also from modules that logged earlier under the service's own configuration.

    That configuration makes each logger keep its processors from its first line on.
    """
    configure_plain_logs()
    for name, module in list(sys.modules.items()):
        if name.startswith("receiver.") and (log := getattr(module, "log", None)) is not None:
            vars(log).pop("bind", None)
    with structlog.testing.capture_logs() as lines:
        yield lines
