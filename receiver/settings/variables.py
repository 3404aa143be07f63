"""The names of environment variables that override the file, and the values that are more than text."""

import json
import tomllib

from receiver.settings.values import InvalidValue

PREFIX = "KLING_RECEIVER__"


def parse_structure(text: str) -> object:
    """Parse a variable's text as JSON or a TOML value: a number, a list, a table."""
    for read in (json.loads, _parse_toml_value):
        try:
            return read(text)
        except (ValueError, RecursionError):
            continue
    raise InvalidValue("is neither JSON nor a TOML value; check its brackets and quotes")


def _parse_toml_value(text: str) -> object:
    return tomllib.loads(f"value = {text}")["value"]
