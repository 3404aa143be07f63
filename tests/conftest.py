"""What all tests may use: a place to tell what was counted; and how the long ones are chosen, ordered and reported."""

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from harness.soak_report import RecordCounts, SoakRecorder, attach_titles, balance_workers, longest_first, serializable
from harness.support import configure_plain_logs

pytest_plugins = ["harness.listeners"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--report", type=Path, metavar="FOLDER", help="write a report of the tests marked soak to FOLDER")


def pytest_configure(config: pytest.Config) -> None:
    configure_plain_logs()
    # What a shell starts in the background ignores Ctrl-C, and so would all that is started here.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line("markers", "soak(title, minutes=0): worth running long; so called in the report of a soak")
    folder = config.getoption("report")
    if folder is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(SoakRecorder(folder))


@pytest.hookimpl(trylast=True)  # when all that is not to run is gone
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    attach_titles(items)
    if config.getoption("report") is not None:
        balance_workers(items)
    elif hasattr(config, "workerinput"):
        longest_first(items)


@pytest.fixture
def record_counts(record_property: Callable[[str, object], None]) -> RecordCounts:
    """Make known what the test counted: at once, where a failure shows it, and in the report of a soak."""

    def record(**counts: object) -> None:
        for name, count in counts.items():
            record_property(name, serializable(count))
            print(f"{name} = {count}")  # noqa: T201  # pytest shows it with a failure

    return record
