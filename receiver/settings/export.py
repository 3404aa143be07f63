"""Lists the effective settings with their sources, and describes the file as a JSON schema."""

import re
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import core_schema

from receiver.domain.model import Json
from receiver.domain.secret import Secret
from receiver.settings.introspection import as_section
from receiver.settings.notify import secret_parts
from receiver.settings.secrets import URL_STAND_IN
from receiver.settings.sections import Settings
from receiver.settings.toml_document import Location, dotted
from receiver.settings.values import Size, write_duration

MASK = "***"

# Their values are often keys or passwords, by reference or not.
_SECRET_TABLES = ("headers", "env")
_SECRET_HEADER = re.compile(r"auth|cookie|key|secret|signature|token", re.IGNORECASE)


class EffectiveSetting(NamedTuple):
    """A key, its effective value as the file would write it, and its source."""

    key: str
    value: object
    origin: str


def list_settings(settings: Settings, origins: Mapping[str, str]) -> list[EffectiveSetting]:
    """Return every key with its value and source; secrets are masked."""
    return [
        EffectiveSetting(dotted(location), masked(location, value), origins.get(dotted(location), "default"))
        for location, value in walk_values(settings)
    ]


def schema() -> Json:
    """Return a JSON schema of the file, for editors and other programs."""
    described = Settings.model_json_schema(schema_generator=_Schema)
    return {"$schema": GenerateJsonSchema.schema_dialect, **described, "title": "config.toml of kling-receiver"}


def walk_values(section: BaseModel, parent: Location = ()) -> Iterator[tuple[Location, object]]:
    """Yield every key that has a value of its own, in the order of the sections."""
    for name, field in type(section).model_fields.items():
        here = (*parent, name)
        match getattr(section, name):
            case BaseModel() as below:
                yield from walk_values(below, here)
            case (BaseModel(), *_) as several:
                for number, each in enumerate(several):
                    yield from walk_values(each, (*here, number))
            case Mapping() as table:
                yield from (((*here, key), value) for key, value in table.items())
            case None if as_section(field.annotation):
                continue
            case value:
                yield here, value


def secrets_in(settings: Settings) -> Iterator[Secret]:
    """Yield every configured secret, also the values of headers whose names say so."""
    for location, value in walk_values(settings):
        match value:
            case Secret():
                yield value
            case tuple():
                found = [each for each in value if isinstance(each, Secret)]
                yield from found
                if location[-2:] == ("notify", "urls"):
                    yield from (part for url in found for part in secret_parts(url))
            case str() if location[-2:-1] == ("headers",) and _SECRET_HEADER.search(str(location[-1])):
                yield Secret(value)


def to_toml_value(value: object) -> object:
    """Return a value as the file would write it, in JSON types; secrets are masked."""
    match value:
        case None | Secret():
            return MASK if value else ""
        case timedelta():
            return write_duration(value)
        case tuple():
            return [to_toml_value(each) for each in value]
        case frozenset():
            return sorted(value)
        case int() if not isinstance(value, Size):
            return value
        case _:
            return str(value)


def masked(location: Location, value: object) -> object:
    """Return a value as the file would write it; secrets are masked."""
    match location:
        case (*_, table, _) if table in _SECRET_TABLES:
            return MASK
        case (*_, "webhook", "url") if value == URL_STAND_IN:
            return MASK
        case (*_, "webhook", "url"):
            # The path of a webhook URL is often a secret.
            parts = urlsplit(str(value))
            return f"{parts.scheme}://{parts.netloc}/{MASK}" if parts.path.strip("/") or parts.query else value
        case _:
            return to_toml_value(value)


class _Schema(GenerateJsonSchema):
    """Writes defaults as the file would, and omits null, which TOML does not have."""

    def nullable_schema(self, schema: core_schema.NullableSchema) -> Json:
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> Json:
        described = super().default_schema(schema)
        if described.get("default") == "" and "$ref" in described:  # an omitted section has no default
            del described["default"]
        return described

    def encode_default(self, dft: Any) -> Any:  # noqa: ANN401 -- the signature is the library's
        return to_toml_value(dft)
