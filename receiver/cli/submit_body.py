"""The options of `kling-receiver submit` that make a task's body."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from receiver.cli.job_file import is_job_file
from receiver.cli.options import UsageError
from receiver.cli.value_kinds import BODY, FILE_OR_URL, KEY_VALUE
from receiver.domain.errors import InvalidRequest, MalformedBody
from receiver.domain.model import Json
from receiver.kling.endpoints import Endpoint
from receiver.kling.images import base64_image, fill_images
from receiver.kling.protocol import parse_object
from receiver.kling.string_members import is_text
from receiver.settings import Dialect
from receiver.settings.paths import probe

_BODY_FORMS = "Write {...}, @FILE or -."
_URLS = ("http://", "https://")


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class BodyOptions:
    """Options that make one body, or name a file of jobs."""

    set_: Annotated[
        list[str] | None,
        KEY_VALUE,
        Parameter(name="--set", help="Member of the body, key=value; a.b=1 nests. May be repeated."),
    ] = None
    set_json: Annotated[
        list[str] | None, KEY_VALUE, Parameter(help="Member of the body, key=JSON, such as n=4. May be repeated.")
    ] = None
    image: Annotated[list[str] | None, FILE_OR_URL, Parameter(help="Image: a file or a URL. May be repeated.")] = None
    body: Annotated[
        str | None,
        BODY,
        Parameter(
            allow_leading_hyphen=True,
            help="Body: JSON, @FILE, or - for stdin; --set and --image add to it. @FILE.jsonl: one job per line.",
        ),
    ] = None

    def job_file(self) -> Path | None:
        """Return the file of jobs, or None if the options are for one job."""
        if self.body is None or not is_job_file(self.body):
            return None
        if self.set_ or self.set_json or self.image:
            raise UsageError(
                "--set, --set-json and --image are for one job.", remedy="Write the members on each line of the file."
            )
        return Path(self.body[1:])

    def build(self, endpoint: Endpoint, dialect: Dialect) -> Json:
        """Return the body of one job."""
        body = _set_members(endpoint, _read_body(self.body), self.set_ or [], self.set_json or [])
        return _fill_images(endpoint, body, self.image or [], dialect)


NO_BODY = BodyOptions()


def _read_body(argument: str | None) -> Json:
    """Read the body from the argument itself, a file (``@FILE``) or stdin (``-``)."""
    if argument is None:
        return {}
    try:
        if argument in ("-", "@-"):
            content = sys.stdin.buffer.read()
        elif argument.startswith("@"):
            content = Path(argument[1:]).read_bytes()
        else:
            content = argument.encode()
        if not content.strip():
            raise UsageError("--body is empty.", remedy=_BODY_FORMS)
        return parse_object(content)
    except OSError as exc:
        raise UsageError(f"Cannot read --body {argument}: {exc.strerror}.", remedy="Check the path.") from exc
    except MalformedBody as exc:
        raise UsageError(f"--body is not a JSON object: {exc.message}", remedy=_body_remedy(argument)) from exc


def _body_remedy(argument: str) -> str:
    if argument.startswith("@"):
        return "For many jobs, write one JSON object on each line of a file that ends in .jsonl."
    if probe(Path(argument)).is_file:
        return f"To read the file: --body @{argument}"
    return _BODY_FORMS


def _set_members(endpoint: Endpoint, body: Json, settings: list[str], json_settings: list[str]) -> Json:
    """Set members of the body in order: those of ``--set``, then those of ``--set-json``."""
    for setting in settings:
        path, text = _split("--set", setting)
        _set_member("--set", body, path, text if is_text(endpoint, path) else _parse_value(text))
    for setting in json_settings:
        path, text = _split("--set-json", setting)
        try:
            value = _parse_json(text)
        except (ValueError, RecursionError) as exc:
            remedy = f"Write text with --set {path}=TEXT, or in quotes: --set-json '{path}=\"TEXT\"'."
            raise UsageError(f"--set-json {path}: the value is not JSON.", remedy=remedy) from exc
        _set_member("--set-json", body, path, value)
    return body


def _split(option: str, setting: str) -> tuple[str, str]:
    path, equals, text = setting.partition("=")
    if not equals or not all(path.split(".")):
        raise UsageError(f"{option} {setting!r} is not of the form key=value.", remedy="Write --set prompt='a cat'.")
    return path, text


def _set_member(option: str, body: Json, path: str, value: object) -> None:
    *parents, last = path.split(".")
    target: Any = body
    for parent in parents:
        target = target.setdefault(parent, {})
        if not isinstance(target, dict):
            raise UsageError(f"{option} {path}: {parent} is not an object.", remedy=f"Set {parent} to an object first.")
    target[last] = value


def _parse_value(text: str) -> object:
    """Parse a value that is JSON, or else text."""
    try:
        return _parse_json(text)
    except (ValueError, RecursionError):
        return text


def _parse_json(text: str) -> object:
    value: object = json.loads(text, parse_constant=_reject_constant)
    return value


def _reject_constant(word: str) -> None:
    raise ValueError(word)  # NaN and Infinity are text, not numbers


def _fill_images(endpoint: Endpoint, body: Json, images: list[str], dialect: Dialect) -> Json:
    """Return the body with its images, files as base64, in the endpoint's members."""
    try:
        return fill_images(endpoint, body, [i if i.startswith(_URLS) else base64_image(i) for i in images], dialect)
    except InvalidRequest as exc:
        raise UsageError(f"--image: {exc.message}", remedy=exc.remedy) from exc
