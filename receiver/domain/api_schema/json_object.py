"""What the definitions are made of. It imports no validation library: the client starts faster without one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Generic, TypeVar, dataclass_transform

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic_core import CoreSchema

T = TypeVar("T")


class SchemaOf:
    """Annotates a member whose JSON has the schema of another type: a time is text in JSON and in the client."""

    def __init__(self, type_: object) -> None:
        self._type = type_

    def __get_pydantic_core_schema__(self, _source: object, handler: "GetCoreSchemaHandler") -> "CoreSchema":
        """Return the schema of the other type. pydantic calls this."""
        return handler.generate_schema(self._type)


class Keywords:
    """Adds keywords to the JSON schema of a member, such as the format of its text."""

    def __init__(self, **keywords: object) -> None:
        self._keywords = keywords

    def __get_pydantic_json_schema__(self, schema: "CoreSchema", handler: "GetJsonSchemaHandler") -> Mapping[str, Any]:
        """Return the schema of the type with the keywords. pydantic calls this."""
        return {**handler(schema), **self._keywords}


Timestamp = Annotated[str, SchemaOf(datetime)]
Day = Annotated[str, Keywords(format="date")]
Url = Annotated[str, Keywords(format="uri")]
Amount = Annotated[str, Keywords(pattern=r"^-?[0-9]+(\.[0-9]+)?$")]
"""An exact decimal number, as text: a float would round it."""


def member_name(attribute: str) -> str:
    """Return the JSON name of an attribute: ``from_`` is ``from``, a word that Python reserves."""
    return attribute.rstrip("_")


@dataclass_transform(kw_only_default=True, frozen_default=True, eq_default=False)
def definition(cls: type[T]) -> type[T]:
    """Make a dataclass that only defines JSON.

    It has no methods to compare or print it, nor any that refuse changes, which type checks refuse: at a start they
    take two thirds of the time of a dataclass.
    """
    return dataclass(kw_only=True, eq=False, repr=False)(cls)


class JsonObject:
    """The base of the dataclasses that define a JSON object. A docstring below a member describes it."""

    __pydantic_config__: ClassVar[Any] = {
        "alias_generator": member_name,
        "json_schema_serialization_defaults_required": True,
        "use_attribute_docstrings": True,
    }

    def to_json(self) -> dict[str, Any]:
        """Return the members by their JSON names. Members that are objects themselves stay objects."""
        members = vars(self)
        if "from_" in members:
            return {member_name(name): value for name, value in members.items()}
        return dict(members)


class SparseObject(JsonObject):
    """The base of an object in which members with a default may be missing."""

    __pydantic_config__: ClassVar[Any] = {
        **JsonObject.__pydantic_config__,
        "json_schema_serialization_defaults_required": False,
    }


@dataclass(frozen=True, kw_only=True)
class Page(JsonObject, Generic[T]):
    """One page of a list."""

    items: Sequence[T]
    next: str | None = None
    """The `cursor` of the next page; null at the end."""
