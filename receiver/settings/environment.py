"""The environment's say: ``KLING_RECEIVER__SECTION__KEY=...`` goes before what the file says.

Text is taken as it stands; numbers, lists and tables are JSON or a TOML value. Routes are counted from 0, and
the number after the last one makes a new route: ``KLING_RECEIVER__ROUTES__0__CONCURRENCY=2``.
"""

import copy
import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from pydantic import BaseModel

from receiver.settings.introspection import as_section, as_sections, is_list, is_table, is_unquoted
from receiver.settings.toml_document import Location
from receiver.settings.values import InvalidValue, closest

PREFIX = "KLING_RECEIVER__"

_NUMBER = re.compile(r"[0-9]{1,4}")


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvOverrides:
    """Values with the environment's say in them, which variable spoke for what, and what could not be taken."""

    values: dict[str, Any]
    variables: Mapping[Location, str]
    errors: tuple[str, ...]


def apply_environment(values: Mapping[str, Any], environ: Mapping[str, str], model: type[BaseModel]) -> EnvOverrides:
    """Lay what the environment says over *values*, which are shaped like *model*."""
    merged = copy.deepcopy(dict(values))
    variables: dict[Location, str] = {}
    faults = []
    for variable in sorted((each for each in environ if each.startswith(PREFIX)), key=_sort_key):
        try:
            location, kind = _resolve_key(variable, model)
            _set_value(merged, location, _parse_value(environ[variable], kind))
        except InvalidValue as fault:
            faults.append(f"{variable}: {fault}")
        else:
            variables[location] = variable
    return EnvOverrides(values=merged, variables=variables, errors=tuple(faults))


def _sort_key(variable: str) -> tuple[str, ...]:
    """Put a whole before its parts, and the routes in the order of their numbers."""
    return tuple(part.zfill(4) if part.isdigit() else part for part in variable.split("__"))


def _resolve_key(variable: str, model: type[BaseModel]) -> tuple[Location, object]:
    """Find the key that a variable names, and the type of what stands there."""
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
                raise InvalidValue(f'names no route: "{part[:40]}" must be its number, from 0 in the order of the file')
            location, kind = (*location, int(part)), section
        elif is_table(kind):
            return (*location, "__".join(parts[depth:])), str
        else:
            whole = PREFIX + "__".join(parts[:depth])
            raise InvalidValue(f"unknown key; nothing lies below {whole}, so set that as a whole")
    return location, kind


def _unknown_key(variable: str, parents: list[str], part: str, model: type[BaseModel]) -> str:
    near = closest(part, model.model_fields)
    if near:
        rest = variable.removeprefix(PREFIX + "__".join([*parents, part]))
        return f"unknown key; did you mean {PREFIX}{'__'.join([*parents, near.upper()])}{rest}?"
    return "unknown key; there are " + ", ".join(each.upper() for each in model.model_fields)


def _set_value(values: dict[str, Any], location: Location, value: object) -> None:
    place: Any = values
    for step, below in pairwise(location):
        place = _get_or_create(place, step, [] if isinstance(below, int) else {})
        if not isinstance(place, list if isinstance(below, int) else dict):
            return  # The file has something else there, which is its own fault.
    last = location[-1]
    if isinstance(last, int):
        _get_or_create(place, last, value)
    place[last] = value


def _get_or_create(place: Any, step: str | int, new: object) -> Any:  # noqa: ANN401 -- values as TOML and JSON give them
    if isinstance(step, str):
        return place.setdefault(step, new)
    if step > len(place):
        raise InvalidValue(f"there is no route {step}; the next new one is {len(place)}")
    if step == len(place):
        place.append(new)
    return place[step]


def _parse_value(text: str, kind: object) -> object:
    """Read a variable's text as what its key wants."""
    structured = is_list(kind) or is_table(kind) or as_section(kind) is not None
    if structured and not text.lstrip().startswith(("[", "{")):
        return text
    if not structured and not is_unquoted(kind):
        return text
    for read in (json.loads, _parse_toml_value):
        try:
            return read(text)
        except (ValueError, RecursionError):
            continue
    if structured:
        raise InvalidValue("is neither JSON nor a TOML value; check its brackets and quotes")
    return text


def _parse_toml_value(text: str) -> object:
    return tomllib.loads(f"value = {text}")["value"]
