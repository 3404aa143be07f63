"""What holds for all tests: plain logs, no deadlines, and the fixtures of the harness."""

import gc
import signal
from collections.abc import Generator

import hypothesis
import pytest
from harness.logs import configure_plain_logs

pytest_plugins = ["harness.listeners", "harness.postgres_fixtures", "harness.soak_plugin", "harness.store_fixtures"]


def pytest_configure() -> None:
    configure_plain_logs()
    # On a busy machine, the time of one example is no sign of a defect.
    hypothesis.settings.register_profile("without deadlines", deadline=None)
    hypothesis.settings.load_profile("without deadlines")
    # A shell's background job ignores Ctrl-C. Processes started by tests must not inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect the tests without the garbage collector. They live until the end, so it need not visit them later."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()
