"""Whatever comes instead of a body of Kling's: it is read as far as it goes, or is unreadable, and nothing else."""

import contextlib
import json

import pytest
from chaos.parameters import number
from data.kling_bodies import KEYS, anything, spoilt, torn
from harness.soak_report import Tell
from harness.support import START
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from receiver.domain.errors import InvalidRequest, Unreadable
from receiver.domain.model import Generation, Json
from receiver.kling import endpoints, protocol
from receiver.kling.error_codes import Said, error_of
from receiver.kling.shortened import shortened

EXAMPLES = number("EXAMPLES", 100)
objects = spoilt() | st.dictionaries(st.sampled_from(KEYS), anything, max_size=6)


def examine(body: bytes) -> None:
    """Read a body in every way there is."""
    reading = protocol.read(body)
    assert protocol.read(body) == reading
    assert reading.says_the_same_as(reading)
    assert isinstance(protocol.read(body, task_id="8"), type(reading))
    assert protocol.read(protocol.bare(body)).kling_id == reading.kling_id
    for task in protocol.several(body):
        protocol.read(task)
    assert len(json.dumps([reading.word, reading.message, reading.kling_id, reading.external_task_id]).encode()) > 0
    for text in (reading.word, reading.message, reading.kling_id or "", reading.external_task_id or ""):
        assert "\0" not in text
        text.encode()


def examine_as_create(body: bytes) -> None:
    """Take a body for what a client asks for."""
    for generation, path in ((Generation.LEGACY, "images/omni-image"), (Generation.NEW, "text-to-image/kling-9")):
        endpoint = endpoints.resolve(path)
        assert endpoint is not None
        with contextlib.suppress(InvalidRequest):
            made = protocol.compose(body, generation=generation, callback_url="https://a.example", external_task_id="t")
            assert 1 <= endpoints.weight(endpoint, made.asked) <= 9
            protocol.parse_object(made.content)
            json.loads(shortened(made.content))


def examine_as_answer(document: Json) -> None:
    """Take a body for what Kling answers to a call."""
    for status in (200, 201, 302, 400, 401, 404, 418, 429, 500, 503, 599):
        for creates in (True, False):
            said = Said(status=status, headers={}, document=document)
            error = error_of(said, creates=creates, now=START)
            assert error is None or str(error).isprintable()
            said.says_there_is_none()


@pytest.mark.soak("spoilt bodies of Kling's", minutes=2)
def test_no_json_object_whatever_makes_the_reader_raise(tell: Tell) -> None:
    tell(bodies=EXAMPLES)

    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
    @given(objects)
    def holds(document: Json) -> None:
        body = json.dumps(document).encode()
        examine(body)
        examine_as_create(body)
        examine_as_answer(document)

    holds()


@pytest.mark.soak("torn bodies of Kling's", minutes=1)
def test_no_bytes_whatever_make_the_reader_raise_anything_but_unreadable(tell: Tell) -> None:
    tell(bodies=EXAMPLES)

    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
    @given(torn() | st.binary(max_size=200))
    def holds(body: bytes) -> None:
        try:
            protocol.parse_object(body)
        except Unreadable:
            for read in (protocol.read, protocol.bare, protocol.several):
                with pytest.raises(Unreadable):
                    read(body)
            return
        examine(body)
        examine_as_create(body)

    holds()
