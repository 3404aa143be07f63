"""The JSON schemas of the API, generated from the definitions of what it accepts and returns."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode

from receiver.domain.model import Json
from receiver.web.member_docstrings import member_docstrings


class _Generator(GenerateJsonSchema):
    """Omits the titles that pydantic derives from member names, and names ``Page[Task]`` a ``TaskPage``."""

    def field_title_should_be_set(self, schema: object) -> bool:  # noqa: ARG002 -- overridden
        """Return False for every member."""
        return False

    def normalize_name(self, name: str) -> str:
        """Return the name of a class in the document."""
        return super().normalize_name(re.sub(r"^(\w+)\[(\w+)\]$", r"\2\1", name))


class Schemas:
    """The schemas of all types in the document."""

    def __init__(self, requests: Sequence[type[BaseModel]], responses: Iterable[type[Any]]) -> None:
        types: Sequence[tuple[type[Any], JsonSchemaMode]] = [
            *((model, "validation") for model in requests),
            *((type_, "serialization") for type_ in responses),
        ]
        by_number, document = TypeAdapter.json_schemas(
            [(number, mode, TypeAdapter(type_)) for number, (type_, mode) in enumerate(types)],
            ref_template="#/components/schemas/{model}",
            schema_generator=_Generator,
        )
        self._by_type: Mapping[type[Any], Json] = {types[number][0]: each for (number, _), each in by_number.items()}
        self.named: Json = document["$defs"]
        for schema in self.named.values():
            if "properties" in schema:  # Kling's own objects have no list of members
                schema.setdefault("additionalProperties", False)
            if "description" in schema:  # docstrings write the names of values as `` ``, Markdown as ` `
                schema["description"] = schema["description"].replace("``", "`")

        for model in requests:
            for name, text in member_docstrings(model).items():
                self.named[model.__name__]["properties"][name].setdefault("description", text)

    def of(self, type_: type[Any]) -> Json:
        """Return the schema of a type: a reference to its named schema."""
        return self._by_type[type_]

    def take_members(self, model: type[BaseModel]) -> Json:
        """Return the schemas of a model's members, and remove the model itself."""
        members: Json = self.named.pop(model.__name__).get("properties", {})
        return members
