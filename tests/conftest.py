"""Shared fixtures, and the choice, order and report of the soak tests."""

import gc
import signal
from collections.abc import Callable, Generator
from pathlib import Path

import hypothesis
import pytest
from harness.logs import configure_plain_logs
from harness.soak_report import RecordCounts, SoakRecorder, attach_titles, balance_workers, longest_first, serializable

pytest_plugins = ["harness.listeners", "harness.postgres_fixtures", "harness.store_fixtures"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--report", type=Path, metavar="FOLDER", help="write a report of the tests marked soak to FOLDER")


def pytest_configure(config: pytest.Config) -> None:
    configure_plain_logs()
    # On a busy machine, the time of one example is no sign of a defect.
    hypothesis.settings.register_profile("without deadlines", deadline=None)
    hypothesis.settings.load_profile("without deadlines")
    # A shell's background job ignores Ctrl-C. Processes started by tests must not inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line("markers", "soak(title, minutes=0): also run by `make soak`, under this title")
    folder = config.getoption("report")
    if folder is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(SoakRecorder(folder))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect the tests without the garbage collector. They live until the end, so it need not visit them later."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(trylast=True)  # after other plugins have deselected tests
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    attach_titles(items)
    if config.getoption("report") is not None:
        balance_workers(items)
    elif hasattr(config, "workerinput"):
        longest_first(items)


@pytest.fixture
def record_counts(record_property: Callable[[str, object], None]) -> RecordCounts:
    """Record a test's counts: printed at once with a failure, and in the soak report."""

    def record(**counts: object) -> None:
        for name, count in counts.items():
            record_property(name, serializable(count))
            print(f"{name} = {count}")  # noqa: T201  # pytest prints it with a failure

    return record
