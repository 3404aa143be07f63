"""Environment variables ``KLING_RECEIVER__SECTION__KEY=...`` override the file.

Text is used unchanged; numbers, lists and tables are JSON or a TOML value. Routes are numbered from 0, and the
number after the last one adds a route: ``KLING_RECEIVER__ROUTES__0__CONCURRENCY=2``.
"""

import copy
import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import msgspec
from pydantic import BaseModel

from receiver.settings.introspection import as_section, as_sections, is_list, is_table, is_unquoted
from receiver.settings.toml_document import Location
from receiver.settings.values import InvalidValue, closest
from receiver.settings.variables import PREFIX, parse_structure

_NUMBER = re.compile(r"[0-9]{1,4}")


class EnvOverrides(msgspec.Struct, frozen=True, kw_only=True):
    """Values after the overrides, the variable behind each overridden value, and errors."""

    values: dict[str, Any]
    variables: Mapping[Location, str]
    errors: tuple[str, ...]


def apply_environment(values: Mapping[str, Any], environ: Mapping[str, str], model: type[BaseModel]) -> EnvOverrides:
    """Return a copy of *values*, which have the shape of *model*, with the environment's overrides."""
    merged = copy.deepcopy(dict(values))
    variables: dict[Location, str] = {}
    errors = []
    for variable in sorted((each for each in environ if each.startswith(PREFIX)), key=_sort_key):
        try:
            location, kind = _resolve_key(variable, model)
            _set_value(merged, location, _parse_value(environ[variable], kind))
        except InvalidValue as exc:
            errors.append(f"{variable}: {exc}")
        else:
            variables[location] = variable
    return EnvOverrides(values=merged, variables=variables, errors=tuple(errors))


def _sort_key(variable: str) -> tuple[str, ...]:
    """Sort a table before its members, and routes by number."""
    return tuple(part.zfill(4) if part.isdigit() else part for part in variable.split("__"))


def _resolve_key(variable: str, model: type[BaseModel]) -> tuple[Location, object]:
    """Return the location of the key that a variable names, and its type."""
    location: Location = ()
    kind: object = model
    parts = variable.removeprefix(PREFIX).split("__")
    for depth, part in enumerate(parts):
        if section := as_section(kind):
            key = part.lower()
            if key not in section.model_fields:
                raise InvalidValue(_unknown_key(variable, parts[:depth], part, section))
            location, kind = (*location, key), section.model_fields[key].annotation
        elif section := as_sections(kind):
            if not _NUMBER.fullmatch(part):
                raise InvalidValue(f'is not a route: "{part[:40]}" must be a number, from 0 in the order of the file')
            location, kind = (*location, int(part)), section
        elif is_table(kind):
            return (*location, "__".join(parts[depth:])), str
        else:
            whole = PREFIX + "__".join(parts[:depth])
            raise InvalidValue(f"unknown key; {whole} has no members, so set it as a whole")
    return location, kind


def _unknown_key(variable: str, parents: list[str], part: str, model: type[BaseModel]) -> str:
    near = closest(part, model.model_fields)
    if near:
        rest = variable.removeprefix(PREFIX + "__".join([*parents, part]))
        return f"unknown key; did you mean {PREFIX}{'__'.join([*parents, near.upper()])}{rest}?"
    return "unknown key; expected: " + ", ".join(each.upper() for each in model.model_fields)


def _set_value(values: dict[str, Any], location: Location, value: object) -> None:
    place: Any = values
    for step, below in pairwise(location):
        place = _get_or_create(place, step, [] if isinstance(below, int) else {})
        if not isinstance(place, list if isinstance(below, int) else dict):
            return  # The file has a value of another type, which is reported separately.
    last = location[-1]
    if isinstance(last, int):
        _get_or_create(place, last, value)
    place[last] = value


def _get_or_create(place: Any, step: str | int, new: object) -> Any:  # noqa: ANN401 -- values as TOML and JSON give them
    if isinstance(step, str):
        return place.setdefault(step, new)
    if step > len(place):
        raise InvalidValue(f"route {step} does not exist; the next new route is {len(place)}")
    if step == len(place):
        place.append(new)
    return place[step]


def _parse_value(text: str, kind: object) -> object:
    """Parse a variable's text as the type of its key."""
    structured = is_list(kind) or is_table(kind) or as_section(kind) is not None
    if structured and not text.lstrip().startswith(("[", "{")):
        return text
    if not structured and not is_unquoted(kind):
        return text
    try:
        return parse_structure(text)
    except InvalidValue:
        if structured:
            raise
        return text
