"""Any body is either parsed or malformed; the parser never raises anything else."""

import contextlib
import json

import pytest
from chaos.parameters import env_int
from data.kling_bodies import KEYS, any_json, corrupted_bodies, corrupted_bytes
from harness.clock import START
from harness.soak_report import RecordCounts
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from receiver.domain.errors import InvalidRequest, MalformedBody
from receiver.domain.model import Generation, Json
from receiver.kling import create_body, endpoints, protocol
from receiver.kling.error_codes import ErrorResponse, to_error
from receiver.kling.raw_json import truncate_strings

EXAMPLES = env_int("EXAMPLES", 100)
objects = corrupted_bodies() | st.dictionaries(st.sampled_from(KEYS), any_json, max_size=6)


def examine(body: bytes) -> None:
    """Read a body in every way there is."""
    reading = protocol.parse_status(body)
    assert protocol.parse_status(body) == reading
    assert reading.matches(reading)
    assert isinstance(protocol.parse_status(body, task_id="8"), type(reading))
    assert protocol.parse_status(protocol.unwrap_task(body)).kling_id == reading.kling_id
    for task in protocol.split_tasks(body):
        protocol.parse_status(task)
    assert (
        len(json.dumps([reading.raw_status, reading.message, reading.kling_id, reading.external_task_id]).encode()) > 0
    )
    for text in (reading.raw_status, reading.message, reading.kling_id or "", reading.external_task_id or ""):
        assert "\0" not in text
        text.encode()


def examine_as_create(body: bytes) -> None:
    """Take a body for what a client asks for."""
    for generation, path in ((Generation.LEGACY, "images/omni-image"), (Generation.NEW, "text-to-image/kling-9")):
        endpoint = endpoints.resolve(path)
        assert endpoint is not None
        with contextlib.suppress(InvalidRequest):
            made = create_body.compose(
                body, generation=generation, callback_url="https://a.example", external_task_id="t"
            )
            assert 1 <= endpoints.slot_weight(endpoint, made.parsed) <= 9
            protocol.parse_object(made.content)
            json.loads(truncate_strings(made.content))


def examine_as_answer(document: Json) -> None:
    """Take a body for what Kling answers to a call."""
    for status in (200, 201, 302, 400, 401, 404, 418, 429, 500, 503, 599):
        for creates in (True, False):
            response = ErrorResponse(status=status, headers={}, document=document)
            error = to_error(response, is_create=creates, now=START)
            assert error is None or str(error).isprintable()
            response.is_not_found()


@pytest.mark.soak("spoilt bodies of Kling's", minutes=2)
def test_any_json_object_can_be_parsed(record_counts: RecordCounts) -> None:
    record_counts(bodies=EXAMPLES)

    @settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
    @given(objects)
    def holds(document: Json) -> None:
        body = json.dumps(document).encode()
        examine(body)
        examine_as_create(body)
        examine_as_answer(document)

    holds()


@pytest.mark.soak("torn bodies of Kling's", minutes=1)
def test_any_bytes_are_parsed_or_malformed(record_counts: RecordCounts) -> None:
    record_counts(bodies=EXAMPLES)

    @settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
    @given(corrupted_bytes() | st.binary(max_size=200))
    def holds(body: bytes) -> None:
        try:
            protocol.parse_object(body)
        except MalformedBody:
            for read in (protocol.parse_status, protocol.unwrap_task, protocol.split_tasks):
                with pytest.raises(MalformedBody):
                    read(body)
            return
        examine(body)
        examine_as_create(body)

    holds()
