"""A route of the configuration: which events, which destination, and how to retry."""

import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, WithJsonSchema, field_validator

from receiver.domain.secret import Secret
from receiver.settings import secrets, values
from receiver.settings.addresses import check_url
from receiver.settings.conditions import read_condition
from receiver.settings.fields import (
    OneOrMany,
    ParsedField,
    ReferenceField,
    Section,
    SigningSecret,
    TableField,
    duration_field,
    int_field,
    read_folder,
    size_field,
)
from receiver.settings.notify import NotifySettings
from receiver.settings.projection import EVENT, PAYLOAD_SCHEMA, Projection, read_payload
from receiver.settings.values import InvalidValue, Rate, Size

EVENT_KINDS = ("submitted", "processing", "succeed", "failed", "rejected", "expired", "batch", "report", "alert", "*")

_TEXT_OR_TEXTS = {"type": ["string", "array"], "items": {"type": "string"}}
_NAME = re.compile(r"[a-z0-9_-]{1,64}")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_RESERVED_HEADERS = re.compile(
    r"webhook-.*|kling-receiver-.*|content-type|content-length|transfer-encoding|connection|host|user-agent"
    r"|accept-encoding|te|trailer|upgrade|expect",
    re.IGNORECASE,
)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_RESERVED_VARIABLES = frozenset(
    f"KLING_{name}"
    for name in (
        "EVENT_ID",
        "EVENT_TYPE",
        "STATUS",
        "TASK_ID",
        "EXTERNAL_TASK_ID",
        "RECEIVER_TASK",
        "ENDPOINT",
        "ATTEMPT",
        "ASSET_DIR",
    )
)


def _read_on(raw: object) -> str:
    text = values.read_text(raw)
    if text not in EVENT_KINDS:
        raise InvalidValue(f"{values.quoted(text)} is not an event kind; {values.did_you_mean(text, EVENT_KINDS)}")
    return text


def _read_glob(raw: object) -> str:
    text = values.read_text(raw)
    bare = text.removeprefix("/").removeprefix("v1/")
    if not text.isprintable() or " " in text or not bare:
        raise InvalidValue('must be an endpoint or a glob, such as "images/*"')
    if bare != text:
        raise InvalidValue(f"must not begin with /v1/; write {values.quoted(bare)}")
    if "/" not in text and not set(text) & set("*?["):
        raise InvalidValue(f'{values.quoted(text)} matches no endpoint; write "{text[:40]}/*" for all of a kind')
    return text


def _read_url(raw: object, info: ValidationInfo) -> str:
    # A chat's webhook URL is a secret as a whole, so it may be a reference.
    text = secrets.resolve(values.read_text(raw), secrets.load_context(info), stand_in=secrets.URL_STAND_IN)
    check_url(text)
    return text


def _header_error(name: str, previous: Sequence[str]) -> str:
    if not _HEADER_NAME.fullmatch(name):
        return f"{values.quoted(name)} is not a header name"
    if _RESERVED_HEADERS.fullmatch(name):
        return f"{name.lower()} is set by the receiver; remove it"
    if name.lower() in (each.lower() for each in previous):
        return f"{name.lower()} is given twice; header names ignore case"
    return ""


def _variable_error(name: str, _previous: Sequence[str]) -> str:
    if not _VARIABLE.fullmatch(name):
        return f"{values.quoted(name)} is not a variable name"
    if name in _RESERVED_VARIABLES:
        return f"{name} is set by the receiver; remove it"
    return ""


def _read_argument(raw: object) -> str:
    text = values.read_text(raw)
    if "\0" in text:
        raise InvalidValue("contains NUL, which is not allowed in an argument")
    return text


def _read_name(raw: object, info: ValidationInfo) -> str:
    text = values.read_text(raw)
    if not _NAME.fullmatch(text):
        raise InvalidValue(f"{values.quoted(text)} is not a route name; use a-z, 0-9, _ and - (64 at most)")
    taken = secrets.load_context(info).route_names
    if text in taken:
        raise InvalidValue(f"{values.quoted(text)} is already used by an earlier route; each route needs its own name")
    taken.add(text)
    return text


def _not_empty(entries: tuple[Any, ...] | frozenset[str]) -> tuple[Any, ...] | frozenset[str]:
    if not entries:
        raise InvalidValue("must not be empty; remove the key to use the default")
    return entries


NotEmpty = AfterValidator(_not_empty)


def _read_command(raw: object) -> object:
    if isinstance(raw, str):
        raise InvalidValue('must be a list, because no shell is used: command = ["/usr/local/bin/publish", "--fast"]')
    return values.as_list(raw)


class WebhookSettings(Section):
    """A webhook destination: receives a signed POST."""

    url: Annotated[str, ReferenceField(_read_url)] = Field(
        repr=False, description="The URL to send to; may be a reference, because it may be a secret."
    )
    secret: Annotated[tuple[SigningSecret, ...], OneOrMany, WithJsonSchema(_TEXT_OR_TEXTS)] = Field(
        default=(), description="Signs each request; during a rotation a list, newest first. Default: unsigned."
    )
    headers: Annotated[Mapping[str, Secret | str], TableField(_header_error, secrets.read_header_value)] = Field(
        default_factory=dict, repr=False, description="Additional headers; values may be references."
    )
    timeout: Annotated[timedelta, duration_field(most=timedelta(minutes=15))] = Field(
        default=timedelta(seconds=15), description="Total time limit of one attempt."
    )
    payload: Annotated[str | Projection, ParsedField(read_payload, PAYLOAD_SCHEMA)] = Field(
        default=EVENT,
        description="event: the receiver's JSON object; kling: Kling's body, unchanged; or a projection of the event.",
    )

    @field_validator("secret", mode="before")
    @classmethod
    def _secret_is_not_empty(cls, raw: object) -> object:
        if raw in ("", []):
            raise InvalidValue("is empty; remove the key to send unsigned")
        return raw


class ScriptSettings(Section):
    """A script destination: a program that runs once per attempt, with the event on standard input."""

    command: Annotated[
        tuple[Annotated[str, ParsedField(_read_argument)], ...],
        BeforeValidator(_read_command),
        AfterValidator(_not_empty),
    ] = Field(description="The program and its arguments; no shell. A program with a slash is relative to this file.")
    timeout: Annotated[timedelta, duration_field(most=timedelta(hours=24))] = Field(
        default=timedelta(minutes=5), description="Time limit; then the program and its child processes are ended."
    )
    cwd: Annotated[Path | None, ReferenceField(read_folder)] = Field(
        default=None, description="The working directory, relative to this file."
    )
    env: Annotated[Mapping[str, Secret | str], TableField(_variable_error, secrets.read_variable_value)] = Field(
        default_factory=dict,
        repr=False,
        description="Variables in addition to PATH, LANG, HOME and KLING_*; values may be references.",
    )
    output_limit: Annotated[Size, size_field(Size(0), Size(16 << 20))] = Field(
        default=Size(64 << 10), description="How many bytes from the end of the output are kept with the attempt."
    )

    @field_validator("command")
    @classmethod
    def _resolve_program(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        program = value[0]
        if not program:
            raise InvalidValue("has no program; the first entry must be its path", at=(0,))
        if "/" in program or program.startswith("~"):
            program = str(secrets.resolve_path(program, secrets.load_context(info)))
        return (program, *value[1:])


class RouteSettings(Section):
    """A rule that sends matching events to one destination."""

    name: Annotated[str, ReferenceField(_read_name)] = Field(description="Name of the route, in lists and logs.")
    on: Annotated[frozenset[Annotated[str, ParsedField(_read_on, {"enum": EVENT_KINDS})]], OneOrMany, NotEmpty] = Field(
        default=frozenset({"succeed"}), description="Event kinds: task states, batch, report, alert, or * for all."
    )
    endpoints: Annotated[tuple[Annotated[str, ParsedField(_read_glob)], ...], OneOrMany] = Field(
        default=(), description="Endpoints, as globs. Empty: all."
    )
    where: Annotated[str | None, ParsedField(read_condition)] = Field(
        default=None, description="A JMESPath expression over the event's data that must be true. Empty: no condition."
    )
    webhook: WebhookSettings | None = Field(
        default=None, description="Send to this URL; a route has either a webhook, a script or a notify."
    )
    script: ScriptSettings | None = Field(
        default=None, description="Run this program; a route has either a webhook, a script or a notify."
    )
    notify: NotifySettings | None = Field(
        default=None, description="Tell people through Apprise; a route has either a webhook, a script or a notify."
    )
    unverified: Annotated[bool, ParsedField(values.read_bool, {"type": "boolean"})] = Field(
        default=False, description="Also send events that should be confirmed but cannot be."
    )
    concurrency: Annotated[int, int_field(1, 1000)] = Field(default=8, description="Maximum attempts in parallel.")
    rate: Annotated[Rate | None, ParsedField(values.read_rate)] = Field(
        default=None, description="Maximum rate of attempts, such as 10/s. Empty: no limit."
    )
    retry: Annotated[tuple[Annotated[timedelta, duration_field(most=timedelta(days=30))], ...], OneOrMany, NotEmpty] = (
        Field(
            default=tuple(timedelta(seconds=each) for each in (5, 30, 120, 600, 1800, 3600)),
            description="Delays after failed attempts, plus or minus 20 %; the last repeats until give_up_after.",
        )
    )
    give_up_after: Annotated[timedelta, duration_field()] = Field(
        default=timedelta(hours=96), description="Age at which a failing delivery becomes dead."
    )

    @field_validator("script")
    @classmethod
    def _no_second_destination(cls, value: ScriptSettings | None, info: ValidationInfo) -> ScriptSettings | None:
        if value and info.data.get("webhook"):
            raise InvalidValue("is given together with webhook; a route has only one of them, so make two routes")
        return value

    @field_validator("notify")
    @classmethod
    def _one_destination(cls, value: NotifySettings | None, info: ValidationInfo) -> NotifySettings | None:
        if "webhook" not in info.data or "script" not in info.data:
            return value
        other = next((name for name in ("webhook", "script") if info.data[name]), None)
        if value and other:
            raise InvalidValue(f"is given together with {other}; a route has only one of them, so make two routes")
        if not value and not other:
            raise InvalidValue(
                "is missing, and so are webhook and script; add a destination: "
                'webhook = { url = "https://..." }, script = { command = ["..."] } or notify = { urls = ["..."] }',
                at=(),
            )
        return value
