"""Field types of the configuration: each ties a key to its parser and to its JSON schema."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationInfo
from pydantic_core import CoreSchema, core_schema

from receiver.domain.secret import Secret
from receiver.settings import secrets, values
from receiver.settings.paths import probe
from receiver.settings.values import InvalidValue, InvalidValues, Size


class Section(BaseModel):
    """Base of all sections: frozen, no unknown keys, and no input value in an error."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, hide_input_in_errors=True, defer_build=True
    )


@dataclass(frozen=True, slots=True)
class ParsedField:
    """Annotates a type: ``parse`` replaces pydantic's validation, ``schema`` describes the value in the file."""

    parse: Callable[[object], object]
    schema: Mapping[str, Any] = field(default_factory=lambda: {"type": "string"})

    def __get_pydantic_core_schema__(self, _source: object, _handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.parse)

    def __get_pydantic_json_schema__(self, _core: CoreSchema, _handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return dict(self.schema)


@dataclass(frozen=True, slots=True)
class ReferenceField:
    """Like :class:`ParsedField`, for values that may refer to the environment or to files."""

    parse: Callable[[object, Any], object]
    schema: Mapping[str, Any] = field(default_factory=lambda: {"type": "string"})

    def __get_pydantic_core_schema__(self, _source: object, _handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_info_plain_validator_function(self.parse)

    def __get_pydantic_json_schema__(self, _core: CoreSchema, _handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return dict(self.schema)


@dataclass(frozen=True, slots=True)
class TableField:
    """Annotates a table with free names, and reports all errors in it at once.

    ``name_error`` takes a name and the names before it, and returns an error or "". ``parse`` parses a value, which
    ``schema`` describes.
    """

    name_error: Callable[[str, Sequence[str]], str]
    parse: Callable[[object, Any], object]
    schema: Mapping[str, Any] = field(default_factory=lambda: {"type": "string"})

    def __get_pydantic_core_schema__(self, _source: object, _handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_info_plain_validator_function(self._parse_table)

    def __get_pydantic_json_schema__(self, _core: CoreSchema, _handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"type": "object", "additionalProperties": dict(self.schema)}

    def _parse_table(self, raw: object, info: ValidationInfo) -> Mapping[str, object]:
        if not isinstance(raw, Mapping):
            raise InvalidValue("must be a table, such as { key = ... }")
        parsed: dict[str, object] = {}
        errors = []
        previous: list[str] = []
        for name, value in raw.items():
            if reason := self.name_error(name, previous):
                errors.append(InvalidValue(reason, at=(name,)))
            try:
                parsed[name] = self.parse(value, info)
            except ValueError as exc:
                errors.append(InvalidValue(str(exc), at=(name,)))
            previous.append(name)
        if errors:
            raise InvalidValues(errors)
        return parsed


def duration_field(
    *, least: timedelta = timedelta(milliseconds=1), most: timedelta = values.MAX_DURATION
) -> ParsedField:
    """Return a field for a duration within bounds."""
    return ParsedField(
        partial(values.read_duration, least=least, most=most), {"type": "string", "examples": ["30s", "24h"]}
    )


def optional_duration_field() -> ParsedField:
    """Return a field for a duration, or None for an empty string or zero."""
    return ParsedField(values.read_optional_duration, {"type": "string", "examples": ["30s", "24h", ""]})


def int_field(least: int, most: int) -> ParsedField:
    """Return a field for an integer within bounds."""
    read = partial(values.read_int, least=least, most=most)
    return ParsedField(read, {"type": "integer", "minimum": least, "maximum": most})


def size_field(least: Size, most: Size) -> ParsedField:
    """Return a field for a size in bytes within bounds."""
    return ParsedField(partial(values.read_size, least=least, most=most), {"type": ["string", "integer"]})


def choice_field(*choices: str) -> ParsedField:
    """Return a field for one of *choices*."""
    read = partial(values.read_choice, choices={str(each): each for each in choices})
    return ParsedField(read, {"type": "string", "enum": [str(each) for each in choices]})


OneOrMany = BeforeValidator(values.as_list)
SigningSecret = Annotated[Secret, ReferenceField(secrets.read_signing_secret)]


def read_folder(raw: object, info: ValidationInfo) -> Path | None:
    """Parse a folder's path; None for an empty string. A folder that cannot be inspected is a warning, not an error."""
    if isinstance(raw, Path):
        return raw
    if raw is None or raw == "":
        return None
    path = secrets.resolve_path(values.read_text(raw), secrets.load_context(info))
    place = probe(path)
    if place.exists and not place.is_folder:
        raise InvalidValue(f"{path} is a file; name a folder")
    return path
