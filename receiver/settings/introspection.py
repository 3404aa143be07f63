"""Finds the definition of a configuration key from the types of the sections."""

import types
from collections.abc import Mapping
from typing import Annotated, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from receiver.settings.toml_document import Location


def unwrap_type(kind: object) -> object:
    """Return a type without Optional and Annotated."""
    if get_origin(kind) is Annotated:
        return unwrap_type(get_args(kind)[0])
    if get_origin(kind) in (Union, types.UnionType):
        kinds = [each for each in get_args(kind) if each is not type(None)]
        return unwrap_type(kinds[0]) if len(kinds) == 1 else kind
    return kind


def as_section(kind: object) -> type[BaseModel] | None:
    """Return the class if *kind* is a section or an optional one, else None."""
    kind = unwrap_type(kind)
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def as_sections(kind: object) -> type[BaseModel] | None:
    """Return the class of the sections in a list, or None."""
    kind = unwrap_type(kind)
    return as_section(get_args(kind)[0]) if get_origin(kind) is tuple else None


def section_of(field: FieldInfo) -> type[BaseModel] | None:
    """Return the class of a key's section or list of sections, or None."""
    return as_section(field.annotation) or as_sections(field.annotation)


def is_table(kind: object) -> bool:
    """Whether this is a table with free names, such as headers."""
    origin = get_origin(unwrap_type(kind))
    return isinstance(origin, type) and issubclass(origin, Mapping)


def is_list(kind: object) -> bool:
    """Whether the file writes such values as lists."""
    return get_origin(unwrap_type(kind)) in (tuple, frozenset)


def is_unquoted(kind: object) -> bool:
    """Whether the file writes such values without quotes: numbers and flags."""
    kind = unwrap_type(kind)
    return isinstance(kind, type) and issubclass(kind, int)


def section_at(root: type[BaseModel], location: Location) -> type[BaseModel] | None:
    """Return the class of the section at *location*, or None."""
    section: type[BaseModel] | None = root
    for step in location:
        if section is None or isinstance(step, int):
            continue
        field = section.model_fields.get(step)
        section = section_of(field) if field else None
    return section


def field_at(root: type[BaseModel], location: Location) -> FieldInfo | None:
    """Return the definition of the key at *location*, or None."""
    section = section_at(root, location[:-1])
    return section.model_fields.get(str(location[-1])) if section else None
