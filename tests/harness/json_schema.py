"""Checks JSON against the schemas of an OpenAPI document. A member that a schema does not list is an error."""

import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "null": type(None),
}
_DESCRIPTIONS = {"title", "description", "default", "examples", "discriminator", "contentMediaType"}
_KEYWORDS = {
    "pattern",
    *("$ref", "anyOf", "oneOf", "type", "enum", "const", "format"),
    *("items", "properties", "required", "additionalProperties", "propertyNames"),
}


class DocumentSchemas:
    """The schemas of a document."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._named = document["components"]["schemas"]

    def errors(self, value: Any, schema: Any, path: str = "$") -> list[str]:
        """Return where a value differs from the schema."""
        return list(self._errors(value, schema, path))

    def _errors(self, value: Any, schema: Any, path: str) -> Iterator[str]:
        if schema is True:
            return
        unsupported = schema.keys() - _KEYWORDS - _DESCRIPTIONS
        assert not unsupported, f"{path}: this checker lacks {unsupported}"
        if "$ref" in schema:
            yield from self._errors(value, self._named[schema["$ref"].rpartition("/")[2]], path)
        for keyword in ("anyOf", "oneOf"):
            if branches := schema.get(keyword):
                results = [self.errors(value, branch, path) for branch in branches]
                if [] not in results:
                    yield f"{path}: no branch fits: {min(results, key=len)}"
        if not _has_type(value, schema.get("type")):
            yield f"{path}: {value!r} is not {schema['type']}"
        else:
            yield from _value_errors(value, schema, path)
            yield from self._inner_errors(value, schema, path)

    def _inner_errors(self, value: Any, schema: Any, path: str) -> Iterator[str]:
        match value:
            case list() if "items" in schema:
                for number, item in enumerate(value):
                    yield from self._errors(item, schema["items"], f"{path}[{number}]")
            case dict() if "type" in schema:
                members, others = schema.get("properties", {}), schema.get("additionalProperties", False)
                yield from (f"{path}: {name} is missing" for name in schema.get("required", ()) if name not in value)
                for name, item in value.items():
                    if others is False and name not in members:
                        yield f"{path}: {name} is not in the schema"
                    else:
                        yield from self._errors(item, members.get(name, others), f"{path}.{name}")
                    yield from self._errors(name, schema.get("propertyNames", True), f"{path} ({name})")


def _has_type(value: Any, type_: str | None) -> bool:
    if type_ is None:
        return True
    return isinstance(value, _TYPES[type_]) and not (isinstance(value, bool) and type_ in ("integer", "number"))


def _value_errors(value: Any, schema: Any, path: str) -> Iterator[str]:
    if "enum" in schema and value not in schema["enum"]:
        yield f"{path}: {value!r} is not one of {schema['enum']}"
    if "const" in schema and value != schema["const"]:
        yield f"{path}: {value!r} is not {schema['const']!r}"
    if "pattern" in schema and not re.search(schema["pattern"], value):
        yield f"{path}: {value!r} does not match {schema['pattern']}"
    if schema.get("format") == "date-time" and datetime.fromisoformat(value).tzinfo is None:
        yield f"{path}: {value!r} has no UTC offset"
