"""The JSON schemas of the API's objects, generated from their models."""

from collections.abc import Sequence

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, models_json_schema

from receiver.domain.model import Json
from receiver.web import models

TEXT: Json = {"type": "string"}
MAYBE_TEXT: Json = {"type": ["string", "null"]}
COUNT: Json = {"type": "integer"}
FLAG: Json = {"type": "boolean"}
TAGS: Json = {"type": "object", "additionalProperties": TEXT}
ANYTHING: Json = {"type": "object"}

_MODELS: Sequence[type[BaseModel]] = (
    models.Problem,
    models.SubmitRequest,
    models.Task,
    models.Endpoint,
    models.CostTotal,
    models.Batch,
    models.Event,
    models.Attempt,
    models.RouteTestOutcome,
    models.Delivery,
    models.Route,
    models.ReplayRequest,
    models.Replay,
    models.TaskExplanation,
    models.ReplayPreview,
    models.Check,
)


class _WithoutTitles(GenerateJsonSchema):
    """Omits the titles that pydantic derives from member names."""

    def field_title_should_be_set(self, schema: object) -> bool:  # noqa: ARG002 -- overridden
        """Return False for every member."""
        return False


def one_of(values: Sequence[str]) -> Json:
    """Return the schema of an enum."""
    return {"type": "string", "enum": [str(value) for value in values]}


def an_object(required: Sequence[str] = (), **members: Json) -> Json:
    """Return the schema of an object with these members."""
    return {"type": "object", "properties": members, **({"required": list(required)} if required else {})}


def named(name: str) -> Json:
    """Return a reference to a named schema."""
    return {"$ref": f"#/components/schemas/{name}"}


def a_list_of(name: str) -> Json:
    """Return the schema of one page of a list."""
    return an_object(("items", "next"), items={"type": "array", "items": named(name)}, next=MAYBE_TEXT)


def _generate() -> Json:
    _, document = models_json_schema(
        [(model, "validation") for model in _MODELS],
        ref_template="#/components/schemas/{model}",
        schema_generator=_WithoutTitles,
    )
    schemas: Json = document["$defs"]
    return schemas


SCHEMAS: Json = _generate()
