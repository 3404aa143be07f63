"""The time to parse a body is proportional to its size, whichever part grows."""

import contextlib
import time
from collections.abc import Callable

import pytest
from data.grown_bodies import GROWN

from receiver.domain.errors import MalformedBody
from receiver.kling import protocol, strict_json

SIZE = 1 << 20
MAX_SECONDS = 0.25  # ten times what the slowest one takes


def _seconds(read: Callable[[bytes], object], body: bytes) -> float:
    """Return the processor time to read a body, the least of three."""
    took = []
    for _ in range(3):
        begun = time.thread_time()
        with contextlib.suppress(MalformedBody):
            read(body)
        took.append(time.thread_time() - begun)
    return min(took)


@pytest.mark.parametrize("grown", GROWN)
@pytest.mark.parametrize("read", [protocol.parse_status, protocol.unwrap_task, protocol.split_tasks])
def test_a_body_of_a_mebibyte_is_parsed_quickly(read: Callable[[bytes], object], grown: str) -> None:
    limit = MAX_SECONDS if read is protocol.parse_status else 10 * MAX_SECONDS  # a list of tasks may have more in it

    assert _seconds(read, GROWN[grown](SIZE)) < limit


@pytest.mark.parametrize("grown", GROWN)
def test_parsing_time_grows_in_proportion_to_size(grown: str) -> None:
    small, large = (_seconds(protocol.parse_status, GROWN[grown](size)) for size in (SIZE // 4, SIZE))

    assert large < 10 * small + 0.01


@pytest.mark.parametrize("tokens", [strict_json.MAX_TASK_TOKENS, strict_json.MAX_TASK_TOKENS + 1])
def test_a_body_about_one_task_has_a_limit_of_tokens(tokens: int) -> None:
    body = b'{"task_id":"1","a":[' + b",".join([b"1"] * (tokens - 9)) + b"]}"  # nine tokens and the commas between

    if tokens > strict_json.MAX_TASK_TOKENS:
        with pytest.raises(MalformedBody, match="more than 20000 JSON tokens"):
            protocol.parse_status(body)
    else:
        assert protocol.parse_status(body).kling_id == "1"


def test_punctuation_inside_a_string_is_not_a_token() -> None:
    body = b'{"task_id":"1","message":"' + b'[{:,\\"' * 100_000 + b'"}'

    assert protocol.parse_status(body).kling_id == "1"
