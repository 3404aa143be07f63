"""Errors of a command: one sentence for people, or with `--json` a problem object (RFC 9457). Both go to stderr."""

import sys
from http import HTTPStatus

from receiver.domain.control_characters import escape_text
from receiver.domain.errors import (
    ConfigurationError,
    Conflict,
    InvalidRequest,
    NotFound,
    ReceiverError,
    RequestFailed,
)
from receiver.domain.model import Json

_LAYOUT = "\n\t"  # control characters of our own error texts
_STATUS_OF = {InvalidRequest: HTTPStatus.BAD_REQUEST, NotFound: HTTPStatus.NOT_FOUND, Conflict: HTTPStatus.CONFLICT}
_TITLES = {"usage": "Wrong usage", "configuration": "Invalid configuration"}
_PROGRAM = "kling-receiver"


def wants_json(argv: list[str]) -> bool:
    """Return whether a command line has `--json`."""
    return "--json" in (argv[: argv.index("--")] if "--" in argv else argv)


def print_error(error: ReceiverError, *, as_json: bool) -> None:
    """Print an error to stderr."""
    if as_json:
        from receiver.cli.render import to_json

        sys.stderr.write(to_json(problem(error)) + "\n")
        return
    text = str(error)
    if isinstance(error, ConfigurationError):
        text = "the configuration is invalid:\n" + "\n".join(f"  {fault}" for fault in error.faults)
    sys.stderr.write(f"{_PROGRAM}: {escape_text(text, keep=_LAYOUT)}\n")


def problem(error: ReceiverError) -> Json:
    """Return the problem object of an error, with the members of the service's own problems.

    ``status`` is that of the service's answer, if it was the service that refused. ``faults`` are those of a
    configuration.
    """
    status = error.status if isinstance(error, RequestFailed) else _STATUS_OF.get(type(error))
    title = _TITLES.get(error.code) or error.code.replace("_", " ").capitalize()
    members: Json = {"type": "about:blank", "title": HTTPStatus(status).phrase if status else title}
    if status:
        members["status"] = int(status)
    members |= {"detail": str(error), "code": error.code}
    if isinstance(error, ConfigurationError):
        from receiver.settings.diagnostics import parse_fault

        members["faults"] = [parse_fault(fault) for fault in error.faults]
    return members
