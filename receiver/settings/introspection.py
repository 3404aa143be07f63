"""What stands at which place of the configuration, told from the types of its sections."""

import types
from collections.abc import Mapping
from typing import Annotated, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from receiver.settings.toml_document import Location


def unwrap_type(kind: object) -> object:
    """Take the optional and the annotated from a type."""
    if get_origin(kind) is Annotated:
        return unwrap_type(get_args(kind)[0])
    if get_origin(kind) in (Union, types.UnionType):
        kinds = [each for each in get_args(kind) if each is not type(None)]
        return unwrap_type(kinds[0]) if len(kinds) == 1 else kind
    return kind


def as_section(kind: object) -> type[BaseModel] | None:
    """Give the section's class where *kind* is one, or may be."""
    kind = unwrap_type(kind)
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def as_sections(kind: object) -> type[BaseModel] | None:
    """Give the class of a list's sections."""
    kind = unwrap_type(kind)
    return as_section(get_args(kind)[0]) if get_origin(kind) is tuple else None


def section_of(field: FieldInfo) -> type[BaseModel] | None:
    """Give the class of the section, or of the list of sections, that a key holds."""
    return as_section(field.annotation) or as_sections(field.annotation)


def is_table(kind: object) -> bool:
    """Whether names in such a table are free, as those of headers are."""
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
    """Find the class of the section at *location*."""
    section: type[BaseModel] | None = root
    for step in location:
        if section is None or isinstance(step, int):
            continue
        field = section.model_fields.get(step)
        section = section_of(field) if field else None
    return section


def field_at(root: type[BaseModel], location: Location) -> FieldInfo | None:
    """Find the definition of the key at *location*."""
    section = section_at(root, location[:-1])
    return section.model_fields.get(str(location[-1])) if section else None
