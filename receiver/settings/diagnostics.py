"""Describes errors in the configuration as sentences with file, line, key and remedy."""

import re
from collections.abc import Iterator, Sequence

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from receiver.domain.model import Json
from receiver.settings.introspection import field_at, section_at, section_of
from receiver.settings.toml_document import Location, dotted
from receiver.settings.value_sources import ValueSources
from receiver.settings.values import InvalidValue, InvalidValues, closest

_FAULT_PATTERN = re.compile(
    r"(?:(?P<file>.+?):(?P<line>[0-9]+): |(?P<variable>[A-Z_]\w*): |(?P<whole_file>[^\"]+?): )?"
    r"(?:(?P<key>[a-z]\w*(?:\.[\w-]+)*): )?"
    r'(?P<message>(?:"[^"]*"|.)+?)(?:; (?P<fix>.+))?',
    re.DOTALL,
)
"""The form of a fault: its place, the key, what is wrong, and after a semicolon the fix."""


def describe_errors(exc: ValidationError, model: type[BaseModel], sources: ValueSources) -> Sequence[str]:
    """Return one sentence for each validation error, in the order of the file."""
    errors = []
    for error in exc.errors(include_url=False, include_input=False):
        for at, text in _error_parts(error, model):
            location = (*error["loc"], *at)
            errors.append((sources.sort_key(location), sources.prefix(location) + text))
    return [text for _, text in sorted(errors, key=lambda error: error[0])]


def _error_parts(error: ErrorDetails, model: type[BaseModel]) -> Iterator[tuple[Location, str]]:
    """Yield the position inside the value, and a sentence, for each invalid part of it."""
    match error.get("ctx", {}).get("error"):
        case InvalidValues(parts=parts):
            yield from ((part.at, str(part)) for part in parts)
        case InvalidValue(at=at):
            yield at, _describe_error(error, model)
        case _:
            yield (), _describe_error(error, model)


def _describe_error(error: ErrorDetails, model: type[BaseModel]) -> str:
    location = error["loc"]
    match error["type"]:
        case "extra_forbidden":
            return _unknown_key(location, model)
        case "missing":
            field = field_at(model, location)
            return f"is missing: {field.description}" if field and field.description else "is missing"
        case "model_type" | "model_attributes_type" if len(location) == 1:
            return f"must be one section; start it with [{location[0]}]"
        case "model_type" | "model_attributes_type" | "dict_type" | "mapping_type":
            return "must be a table, such as { key = ... }"
        case "value_error":
            return str(error["ctx"]["error"])
        case _:
            return error["msg"]


def _unknown_key(location: Location, model: type[BaseModel]) -> str:
    key, parent = str(location[-1]), location[:-1]
    here = section_at(model, parent)
    if here is None:
        return "unknown key"
    if below := _sections_with(key, here, parent):
        return f"unknown key; it belongs in {below}"
    if near := closest(key, here.model_fields):
        return f'unknown key; did you mean "{near}"?'
    if elsewhere := _sections_with(key, model, ()):
        return f"unknown key; it belongs in {elsewhere}"
    return "unknown key; expected: " + ", ".join(f'"{each}"' for each in here.model_fields)


def _sections_with(key: str, model: type[BaseModel], parent: Location) -> str:
    """Return the names of the sections directly below *model* that have this key."""
    names = [
        f"[{dotted((*(step for step in parent if isinstance(step, str)), name))}]"
        for name, field in model.model_fields.items()
        if (section := section_of(field)) and key in section.model_fields
    ]
    return " or ".join(names).replace("[routes]", "[[routes]]")


def parse_fault(text: str) -> Json:
    """Split the text of a fault into its parts; parts that it does not state are None."""
    match = _FAULT_PATTERN.fullmatch(text)
    parts = {} if match is None else match.groupdict()
    line = parts.get("line")
    return {
        "file": parts.get("file") or parts.get("whole_file"),
        "line": None if line is None else int(line),
        "variable": parts.get("variable"),
        "key": parts.get("key"),
        "message": parts.get("message") or text,
        "fix": parts.get("fix"),
    }
