"""The levels of log lines by module."""

import logging

import pytest

from receiver.domain.errors import ConfigurationError
from receiver.service.log_levels import read_levels


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {"receiver.web.callbacks": logging.INFO}),
        ("debug", {"receiver.web.callbacks": logging.DEBUG}),
        ("info,receiver.delivery=debug", {"receiver.delivery.retry": logging.DEBUG, "receiver.web.auth": logging.INFO}),
        ("delivery=debug", {"receiver.delivery": logging.DEBUG, "receiver.tracking.inbox": logging.INFO}),
        (
            "error, tracking = debug ,tracking.poller=warning",
            {
                "receiver.tracking.inbox": logging.DEBUG,
                "receiver.tracking.poller": logging.WARNING,
                "receiver.store.disk": logging.ERROR,
            },
        ),
        ("warning,receiver=debug", {"receiver.web.auth": logging.DEBUG, "uvicorn": logging.WARNING}),
        ("tasks=debug", {"receiver.tasks.health_alerts": logging.DEBUG, "receiver.tasks_of_others": logging.INFO}),
    ],
)
def test_the_longest_name_of_a_module_counts(text: str, expected: dict[str, int]) -> None:
    levels = read_levels(None, {"KLING_RECEIVER_LOG": text})

    assert {module: levels.of(module) for module in expected} == expected


def test_the_option_outweighs_the_environment() -> None:
    assert read_levels("error", {"KLING_RECEIVER_LOG": "debug"}).default == logging.ERROR


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("loud", "KLING_RECEIVER_LOG: 'loud' is not a log level; use one of debug, info, warning, error"),
        ("info,delivery=loud", "'loud' is not a log level"),
        ("info,delivry=debug", "'delivry' is not a module of the receiver"),
        ("info,=debug", "'' is not a module of the receiver"),
        ("info,../etc=debug", "is not a module of the receiver"),
    ],
)
def test_an_error_names_the_variable_the_word_and_what_is_expected(text: str, error: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read_levels(None, {"KLING_RECEIVER_LOG": text})

    assert error in str(caught.value)
