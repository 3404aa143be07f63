"""Sample events are like real ones, and marked as tests."""

import json

import pytest
from harness.clock import START, FakeClock
from harness.json_schema import DocumentSchemas

from receiver.domain.api_schema.events import Event as EventSchema
from receiver.domain.clock import Ids
from receiver.events.payload import serialize
from receiver.events.samples import UnknownType, sample_event, sample_names
from receiver.web.openapi.document import openapi_document

DOCUMENT = openapi_document().to_json()


@pytest.mark.parametrize("name", sample_names())
def test_each_sample_matches_the_schema_of_its_type_and_is_marked(name: str) -> None:
    event = sample_event(name, ids=Ids(FakeClock()), at=START)

    sent = json.loads(serialize(event))
    assert EventSchema.model_validate(sent).root.type == event.type
    schema = {"$ref": "#/components/schemas/Event"}
    assert DocumentSchemas(DOCUMENT).errors(sent, schema) == []
    assert (sent["type"], sent["data"]["test"], sent["data"]["event_id"]) == (event.type, True, event.id)


def test_there_is_a_sample_of_every_type_of_event() -> None:
    types = set(DOCUMENT["components"]["schemas"]["Event"]["discriminator"]["mapping"])

    assert {sample_event(name, ids=Ids(FakeClock()), at=START).type for name in sample_names()} == types


def test_an_unknown_type_is_answered_with_all_types() -> None:
    with pytest.raises(UnknownType, match=r"no event type 'queued'.*succeed.*batch.*alert\.route_held"):
        sample_event("queued", ids=Ids(FakeClock()), at=START)
