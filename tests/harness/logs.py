"""The log format of the tests."""

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
