"""The types of members and parameters that :mod:`receiver.web.api_requests` consists of.

Each type says in one phrase what it expects. The message of an error is the member's name, that phrase, and what was
found.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BeforeValidator,
    FailFast,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PlainValidator,
    Strict,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from receiver.domain.api_schema.json_object import Keywords
from receiver.domain.batches import BATCH_NAME_PATTERN, BATCH_NAME_RULE
from receiver.domain.costs import CostGrouping
from receiver.domain.model import TaskState

UNEXPECTED = "unexpected"
"""The type of an error with the phrase ``what``. If ``shown``, the value is not secret and belongs in the message."""
SENTENCE = "sentence"
"""The type of an error whose message is a complete sentence."""

_MAX_LINE = 256
_CONTROLS = r"\u0000-\u001F\u007F-\u009F\u2028\u2029\u202A-\u202E\u2066-\u2069"
_LINE = f"^[^{_CONTROLS}]*$"
_MAX_TAGS = 32
_MAX_TAG_LENGTH = 64
_MAX_LIST_ITEMS = 500
_COST_GROUPINGS = [each.value for each in CostGrouping if each is not CostGrouping.TAG]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class expected:  # noqa: N801 -- it is read as part of a type
    """Replaces a type's own errors by one that says what is expected. It runs in pydantic's core, so it is fast."""

    what: str
    shown: bool = False

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Return the schema of the annotated type with this error. pydantic calls this."""
        return core_schema.custom_error_schema(
            handler(source),
            custom_error_type=UNEXPECTED,
            custom_error_message="must be {what}",
            custom_error_context={"what": self.what, "shown": self.shown},
        )


def expected_container(what: str) -> WrapValidator:
    """Replace the errors of a container by one that says *what* is expected, and keep those of what is in it."""

    def validate(value: object, inner: ValidatorFunctionWrapHandler) -> object:
        try:
            return inner(value)
        except ValidationError as exc:
            if exc.errors(include_url=False, include_input=False)[0]["type"] in (UNEXPECTED, SENTENCE):
                raise
        raise PydanticCustomError(UNEXPECTED, "must be {what}", {"what": what, "shown": False})

    return WrapValidator(validate)


def sentence(text: str) -> PydanticCustomError:
    """Return an error whose message is *text*."""
    return PydanticCustomError(SENTENCE, "{text}", {"text": text})


def one_of(words: type[StrEnum]) -> expected:
    """Expect a value of an enum."""
    return expected("one of: " + ", ".join(sorted(words)), shown=True)


def shorten(name: str) -> str:
    """Return a client's own word for a message: quoted, on one line and bounded."""
    return repr(name[:_MAX_LINE])


def _empty_is_none(value: object) -> object:
    return None if value == "" else value


def is_single_line(text: str) -> bool:
    """Return whether a text is short, on one line, and shows what it is: no controls, and nothing that reorders it."""
    return len(text) <= _MAX_LINE and re.fullmatch(_LINE, text) is not None


@dataclass(frozen=True, slots=True)
class null_is:  # noqa: N801 -- as expected
    """Reads null as a default. The JSON schema says so."""

    default: object

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Return the schema of the annotated type that also accepts null. pydantic calls this."""
        return core_schema.no_info_before_validator_function(
            lambda value: self.default if value is None else value, handler(source)
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Return the JSON schema. pydantic calls this."""
        return {"anyOf": [handler(schema), {"type": "null"}]}


def _parse_timestamp(text: object) -> datetime:
    at = datetime.fromisoformat(text) if isinstance(text, str) else None
    if at is None or at.tzinfo is None:
        raise ValueError
    try:
        return at.astimezone(UTC)
    except OverflowError as exc:  # the last hours of the year 9999 may not exist in UTC
        raise ValueError from exc


def _whole(value: object) -> object:
    """Return 5 for 5.0: JSON has one kind of number."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _parse_digits(text: object) -> object:
    if isinstance(text, str) and text.isascii() and text.isdigit():
        return text
    raise ValueError


def _parse_pairs(values: Sequence[str]) -> Mapping[str, str]:
    split = [value.partition(":") for value in values]
    if any(not key or not colon for key, colon, _ in split):
        raise ValueError
    pairs = {key: value for key, _, value in split}
    if len(pairs) != len(split):
        raise PydanticCustomError(UNEXPECTED, "", {"what": "given only once for each key", "shown": False})
    return pairs


def _parse_cost_grouping(text: str) -> tuple[CostGrouping, str | None]:
    name, colon, tag = text.partition(":")
    if name == CostGrouping.TAG and tag:
        return CostGrouping.TAG, tag
    if colon or name not in _COST_GROUPINGS:
        raise ValueError
    return CostGrouping(name), None


def _check_tag_count(value: object) -> object:
    if isinstance(value, dict) and len(value) > _MAX_TAGS:
        raise ValueError
    return value


Line = Annotated[
    str,
    Field(max_length=_MAX_LINE, pattern=_LINE),
    expected(f"a single line of at most {_MAX_LINE} characters"),
]
RequiredLine = Annotated[
    str,
    Field(min_length=1, max_length=_MAX_LINE, pattern=_LINE),
    expected(f"a single line of 1 to {_MAX_LINE} characters"),
]
OptionalLine = Annotated[Line | None, BeforeValidator(_empty_is_none)]
Text = Annotated[Line, null_is("")]
SHORT_LIST: tuple[Any, ...] = (
    Field(max_length=_MAX_LIST_ITEMS),
    FailFast(),
    null_is(()),
    expected_container(f"a list of at most {_MAX_LIST_ITEMS} texts"),
)
Lines = Annotated[tuple[Line, ...], *SHORT_LIST]

TagName = Annotated[
    str,
    Field(min_length=1, max_length=_MAX_TAG_LENGTH, pattern=f"^[^:{_CONTROLS}]*$"),
    expected(f"a single line of 1 to {_MAX_TAG_LENGTH} characters without a colon"),
]
Tags = Annotated[
    dict[TagName, Line],
    Field(max_length=_MAX_TAGS),
    Keywords(additionalProperties=False),
    BeforeValidator(_check_tag_count),
    null_is({}),
    expected_container(f"an object of at most {_MAX_TAGS} texts"),
]
"""Names contain no colon, because filters are written ``key:value``."""

BatchName = Annotated[
    str,
    Field(pattern=BATCH_NAME_PATTERN),
    expected(BATCH_NAME_RULE),
]
ReachableState = Annotated[
    Literal[
        TaskState.SUBMITTED,
        TaskState.PROCESSING,
        TaskState.SUCCEED,
        TaskState.FAILED,
        TaskState.REJECTED,
        TaskState.EXPIRED,
    ],
    expected("one of: expired, failed, processing, rejected, submitted, succeed", shown=True),
]
Flag = Annotated[bool, Strict(), expected("true or false")]
KlingBody = Annotated[dict[Any, Any], expected("an object")]

EventId = Annotated[
    str, Field(pattern="^evt_[0-9a-z]{25}$"), expected("an event's ID: evt_ and 25 letters or digits", shown=True)
]
Timestamp = Annotated[
    datetime,
    PlainValidator(_parse_timestamp, json_schema_input_type=datetime),
    expected("a timestamp with a UTC offset, such as 2026-11-22T10:00:00Z", shown=True),
]
Cursor = Annotated[
    str | None,
    Field(pattern="^[A-Za-z0-9_-]*$"),
    BeforeValidator(_empty_is_none),
    expected("the `next` of a page", shown=True),
]
OptionalTimestamp = Annotated[Timestamp | None, BeforeValidator(_empty_is_none)]
CommaSeparated = Annotated[
    tuple[T, ...], BeforeValidator(lambda values: [word for each in values for word in each.split(",") if word])
]
Pairs = Annotated[
    Mapping[str, str],
    PlainValidator(_parse_pairs, json_schema_input_type=list[Annotated[str, Field(pattern="^[^:]+:")]]),
    expected_container("written as key:value"),
]
CostKey = Annotated[
    tuple[CostGrouping, str | None],
    PlainValidator(
        _parse_cost_grouping,
        json_schema_input_type=Annotated[str, Field(pattern=rf"^({'|'.join(_COST_GROUPINGS)}|tag:[\s\S]+)$")],
    ),
    expected(f"tag:NAME or one of: {', '.join(_COST_GROUPINGS)}", shown=True),
]


def whole_number(least: int, most: int) -> tuple[Any, ...]:
    """Return the annotations of a number in JSON."""
    return (
        Strict(),
        Field(ge=least, le=most),
        BeforeValidator(_whole),
        expected(f"a whole number from {least} to {most}", shown=True),
    )


def number_text(least: int, most: int) -> tuple[Any, ...]:
    """Return the annotations of a number in a query."""
    return (
        Field(ge=least, le=most),
        BeforeValidator(_parse_digits),
        expected(f"a number from {least} to {most}", shown=True),
    )
