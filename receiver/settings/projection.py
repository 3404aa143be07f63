"""A webhook's ``payload``: the event, Kling's own body, or a JMESPath projection of the event."""

from collections.abc import Mapping
from typing import Any

import msgspec

from receiver.settings.conditions import read_condition
from receiver.settings.values import InvalidValue, quoted, read_choice

EVENT, KLING = "event", "kling"

PAYLOAD_SCHEMA: Mapping[str, Any] = {
    "oneOf": [
        {"type": "string", "enum": [EVENT, KLING]},
        {
            "type": "object",
            "properties": {"project": {"type": "string"}},
            "required": ["project"],
            "additionalProperties": False,
        },
    ]
}


class Projection(msgspec.Struct, frozen=True):
    """A JMESPath expression over the event object. Its value is the body of the request."""

    expression: str

    def __str__(self) -> str:
        return f"{{ project = {quoted(self.expression)} }}"


def read_payload(raw: object) -> str | Projection:
    """Parse ``"event"``, ``"kling"`` or ``{ project = "<JMESPath>" }``."""
    match raw:
        case Projection():
            return raw
        case Mapping() if set(raw) == {"project"}:
            try:
                expression = read_condition(raw["project"])
            except InvalidValue as exc:
                raise InvalidValue(str(exc), at=("project",)) from None
            if expression is None:
                raise InvalidValue("is empty; write a JMESPath expression over the event", at=("project",))
            return Projection(expression)
        case Mapping():
            raise InvalidValue('must have one key: { project = "<JMESPath>" }')
        case _:
            return read_choice(raw, choices={EVENT: EVENT, KLING: KLING})
