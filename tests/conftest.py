"""What all tests may use: a place to tell what was counted; and how the long ones are chosen, ordered and reported."""

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from harness.soak_report import Recorder, Tell, countable, heaviest_first, label, long_ones_first
from harness.support import log_plainly

pytest_plugins = ["harness.listeners"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--report", type=Path, metavar="FOLDER", help="write a report of the tests marked soak to FOLDER")


def pytest_configure(config: pytest.Config) -> None:
    log_plainly()
    # What a shell starts in the background ignores Ctrl-C, and so would all that is started here.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line("markers", "soak(title, minutes=0): worth running long; so called in the report of a soak")
    folder = config.getoption("report")
    if folder is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Recorder(folder))


@pytest.hookimpl(trylast=True)  # when all that is not to run is gone
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    label(items)
    if config.getoption("report") is not None:
        heaviest_first(items)
    elif hasattr(config, "workerinput"):
        long_ones_first(items)


@pytest.fixture
def tell(record_property: Callable[[str, object], None]) -> Tell:
    """Make known what the test counted: at once, where a failure shows it, and in the report of a soak."""

    def say(**counts: object) -> None:
        for name, count in counts.items():
            record_property(name, countable(count))
            print(f"{name} = {count}")  # noqa: T201  # pytest shows it with a failure

    return say
