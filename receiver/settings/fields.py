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
from receiver.settings.paths import look
from receiver.settings.values import Size, Unfit, Unfits


class Section(BaseModel):
    """What all sections have in common: frozen, no unknown keys, and no value shown in a fault."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, hide_input_in_errors=True, defer_build=True
    )


@dataclass(frozen=True, slots=True)
class Read:
    """Stands beside a type: *by* reads the value wholly, *schema* describes what the file may hold."""

    by: Callable[[object], object]
    schema: Mapping[str, Any] = field(default_factory=lambda: {"type": "string"})

    def __get_pydantic_core_schema__(self, _source: object, _handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.by)

    def __get_pydantic_json_schema__(self, _core: CoreSchema, _handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return dict(self.schema)


@dataclass(frozen=True, slots=True)
class Resolve:
    """As :class:`Read`, for values that may refer to the environment or to files."""

    by: Callable[[object, Any], object]
    schema: Mapping[str, Any] = field(default_factory=lambda: {"type": "string"})

    def __get_pydantic_core_schema__(self, _source: object, _handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_info_plain_validator_function(self.by)

    def __get_pydantic_json_schema__(self, _core: CoreSchema, _handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return dict(self.schema)


@dataclass(frozen=True, slots=True)
class Named:
    """Stands beside a table whose names are free, and names every fault in it at once.

    *judge* is given a name and those above it, and says what is wrong with it, or nothing; *by* reads a value.
    """

    judge: Callable[[str, Sequence[str]], str]
    by: Callable[[object, Any], object]

    def __get_pydantic_core_schema__(self, _source: object, _handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_info_plain_validator_function(self._read)

    def __get_pydantic_json_schema__(self, _core: CoreSchema, _handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"type": "object", "additionalProperties": {"type": "string"}}

    def _read(self, raw: object, info: ValidationInfo) -> Mapping[str, object]:
        if not isinstance(raw, Mapping):
            raise Unfit("must be a table, such as { key = ... }")
        read: dict[str, object] = {}
        faults = []
        above: list[str] = []
        for name, value in raw.items():
            if fault := self.judge(name, above):
                faults.append(Unfit(fault, at=(name,)))
            try:
                read[name] = self.by(value, info)
            except ValueError as exc:
                faults.append(Unfit(str(exc), at=(name,)))
            above.append(name)
        if faults:
            raise Unfits(faults)
        return read


def lasting(*, least: timedelta = timedelta(milliseconds=1), most: timedelta = values.LONGEST) -> Read:
    """Read a duration within bounds."""
    return Read(partial(values.read_duration, least=least, most=most), {"type": "string", "examples": ["30s", "24h"]})


def lasting_if_any() -> Read:
    """Read a duration, or none from an empty string or from zero."""
    return Read(values.read_duration_if_any, {"type": "string", "examples": ["30s", "24h", ""]})


def counted(least: int, most: int) -> Read:
    """Read a whole number within bounds."""
    read = partial(values.read_count, least=least, most=most)
    return Read(read, {"type": "integer", "minimum": least, "maximum": most})


def sized(least: Size, most: Size) -> Read:
    """Read a number of bytes within bounds."""
    return Read(partial(values.read_size, least=least, most=most), {"type": ["string", "integer"]})


def chosen(*choices: str) -> Read:
    """Read one of a few words."""
    read = partial(values.read_choice, words={str(each): each for each in choices})
    return Read(read, {"type": "string", "enum": [str(each) for each in choices]})


List = BeforeValidator(values.listed)
SigningSecret = Annotated[Secret, Resolve(secrets.read_signing_secret)]


def read_folder(raw: object, info: ValidationInfo) -> Path | None:
    """Read a folder's path, or nothing from an empty string. One that nobody can look at is a doubt, no fault."""
    if isinstance(raw, Path):
        return raw
    if raw is None or raw == "":
        return None
    path = secrets.resolve_path(values.read_text(raw), secrets.surroundings(info))
    place = look(path)
    if place.is_there and not place.is_folder:
        raise Unfit(f"{path} is a file; name a folder")
    return path
