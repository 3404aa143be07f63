"""The choice, order and report of the soak tests, as a plugin of pytest."""

from collections.abc import Callable
from pathlib import Path

import pytest
from harness.soak_report import RecordCounts, SoakRecorder, attach_titles, balance_workers, longest_first, serializable


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--report", type=Path, metavar="FOLDER", help="write a report of the tests marked soak to FOLDER")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "soak(title, minutes=0): also run by `make soak`, under this title")
    folder = config.getoption("report")
    if folder is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(SoakRecorder(folder))


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
