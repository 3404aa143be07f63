"""What sections of the configuration are made of: keys tied to their readers, and to what JSON schema says of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationInfo
from pydantic_core import CoreSchema, core_schema

from receiver.domain.model import Secret
from receiver.settings import secrets, values
from receiver.settings.paths import probe
from receiver.settings.values import InvalidValue, InvalidValues, Size


class Section(BaseModel):
    """What all sections have in common: frozen, no unknown keys, and no value shown in a fault."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, hide_input_in_errors=True, defer_build=True
    )


@dataclass(frozen=True, slots=True)
class ParsedField:
    """Stands beside a type: *by* reads the value wholly, *schema* describes what the file may hold."""

    parse: Callable[[object], object]
    schema: Mapping[str, Any] = field(default_factory=lambda: {"type": "string"})

    def __get_pydantic_core_schema__(self, _source: object, _handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.parse)

    def __get_pydantic_json_schema__(self, _core: CoreSchema, _handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return dict(self.schema)


@dataclass(frozen=True, slots=True)
class ReferenceField:
    """As :class:`Read`, for values that may refer to the environment or to files."""

    parse: Callable[[object, Any], object]
    schema: Mapping[str, Any] = field(default_factory=lambda: {"type": "string"})

    def __get_pydantic_core_schema__(self, _source: object, _handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_info_plain_validator_function(self.parse)

    def __get_pydantic_json_schema__(self, _core: CoreSchema, _handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return dict(self.schema)


@dataclass(frozen=True, slots=True)
class TableField:
    """Stands beside a table whose names are free, and names every fault in it at once.

    *judge* is given a name and those above it, and says what is wrong with it, or nothing; *by* reads a value.
    """

    name_error: Callable[[str, Sequence[str]], str]
    parse: Callable[[object, Any], object]

    def __get_pydantic_core_schema__(self, _source: object, _handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_info_plain_validator_function(self._parse_table)

    def __get_pydantic_json_schema__(self, _core: CoreSchema, _handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"type": "object", "additionalProperties": {"type": "string"}}

    def _parse_table(self, raw: object, info: ValidationInfo) -> Mapping[str, object]:
        if not isinstance(raw, Mapping):
            raise InvalidValue("must be a table, such as { key = ... }")
        read: dict[str, object] = {}
        faults = []
        above: list[str] = []
        for name, value in raw.items():
            if fault := self.name_error(name, above):
                faults.append(InvalidValue(fault, at=(name,)))
            try:
                read[name] = self.parse(value, info)
            except ValueError as exc:
                faults.append(InvalidValue(str(exc), at=(name,)))
            above.append(name)
        if faults:
            raise InvalidValues(faults)
        return read


def duration_field(
    *, least: timedelta = timedelta(milliseconds=1), most: timedelta = values.MAX_DURATION
) -> ParsedField:
    """Read a duration within bounds."""
    return ParsedField(
        partial(values.read_duration, least=least, most=most), {"type": "string", "examples": ["30s", "24h"]}
    )


def optional_duration_field() -> ParsedField:
    """Read a duration, or none from an empty string or from zero."""
    return ParsedField(values.read_optional_duration, {"type": "string", "examples": ["30s", "24h", ""]})


def int_field(least: int, most: int) -> ParsedField:
    """Read a whole number within bounds."""
    read = partial(values.read_int, least=least, most=most)
    return ParsedField(read, {"type": "integer", "minimum": least, "maximum": most})


def size_field(least: Size, most: Size) -> ParsedField:
    """Read a number of bytes within bounds."""
    return ParsedField(partial(values.read_size, least=least, most=most), {"type": ["string", "integer"]})


def choice_field(*choices: str) -> ParsedField:
    """Read one of a few words."""
    read = partial(values.read_choice, choices={str(each): each for each in choices})
    return ParsedField(read, {"type": "string", "enum": [str(each) for each in choices]})


OneOrMany = BeforeValidator(values.as_list)
SigningSecret = Annotated[Secret, ReferenceField(secrets.read_signing_secret)]


def read_folder(raw: object, info: ValidationInfo) -> Path | None:
    """Read a folder's path, or nothing from an empty string. One that nobody can look at is a doubt, no fault."""
    if isinstance(raw, Path):
        return raw
    if raw is None or raw == "":
        return None
    path = secrets.resolve_path(values.read_text(raw), secrets.load_context(info))
    place = probe(path)
    if place.exists and not place.is_folder:
        raise InvalidValue(f"{path} is a file; name a folder")
    return path
