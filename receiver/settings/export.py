"""The configuration shown: what holds and who said so, and what may stand in the file."""

from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import core_schema

from receiver.domain.model import Json, Secret
from receiver.settings.introspection import as_section
from receiver.settings.sections import Settings
from receiver.settings.toml_document import Location, dotted
from receiver.settings.values import Size, write_duration

HIDDEN = "***"

# Their values are written by people who think of a key or a password, reference or not.
_HIDDEN_TABLES = ("headers", "env")


class Shown(NamedTuple):
    """One key that holds, its value as the file would write it, and who said so."""

    key: str
    value: object
    origin: str


def show(settings: Settings, origins: Mapping[str, str]) -> list[Shown]:
    """List every key with its value, secrets hidden, and its origin."""
    return [
        Shown(dotted(location), _seen(location, value), origins.get(dotted(location), "default"))
        for location, value in leaves(settings)
    ]


def schema() -> Json:
    """Describe the file as JSON schema, for editors and other programs."""
    described = Settings.model_json_schema(schema_generator=_Schema)
    return {"$schema": GenerateJsonSchema.schema_dialect, **described, "title": "config.toml of kling-receiver"}


def leaves(section: BaseModel, above: Location = ()) -> Iterator[tuple[Location, object]]:
    """Walk over every key that has a value of its own, in the file's order."""
    for name, field in type(section).model_fields.items():
        here = (*above, name)
        match getattr(section, name):
            case BaseModel() as below:
                yield from leaves(below, here)
            case (BaseModel(), *_) as several:
                for number, each in enumerate(several):
                    yield from leaves(each, (*here, number))
            case Mapping() as table:
                yield from (((*here, key), value) for key, value in table.items())
            case None if as_section(field.annotation):
                continue
            case value:
                yield here, value


def written(value: object) -> object:
    """Write a value as the file would, in JSON's types, secrets hidden."""
    match value:
        case None | Secret():
            return HIDDEN if value else ""
        case timedelta():
            return write_duration(value)
        case tuple():
            return [written(each) for each in value]
        case frozenset():
            return sorted(value)
        case int() if not isinstance(value, Size):
            return value
        case _:
            return str(value)


def _seen(location: Location, value: object) -> object:
    match location:
        case (*_, table, _) if table in _HIDDEN_TABLES:
            return HIDDEN
        case (*_, "webhook", "url"):
            # The path of a webhook's URL is often its password.
            parts = urlsplit(str(value))
            return f"{parts.scheme}://{parts.netloc}/{HIDDEN}" if parts.path.strip("/") or parts.query else value
        case _:
            return written(value)


class _Schema(GenerateJsonSchema):
    """Writes defaults as the file would, and knows that TOML has no null."""

    def nullable_schema(self, schema: core_schema.NullableSchema) -> Json:
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> Json:
        described = super().default_schema(schema)
        if described.get("default") == "" and "$ref" in described:  # a section that is left out has no default
            del described["default"]
        return described

    def encode_default(self, dft: Any) -> Any:  # noqa: ANN401 -- the signature is the library's
        return written(dft)
