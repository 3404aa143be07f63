"""Secrets of the configuration: a literal string, or a reference to where the secret is stored.

``env:NAME`` is an environment variable, ``file:PATH`` the text of a file without its final line breaks,
``credential:NAME`` a file in systemd's ``$CREDENTIALS_DIRECTORY``. No error message repeats a secret.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import msgspec
from msgspec.structs import replace

from receiver.domain import signing
from receiver.domain.secret import Secret
from receiver.settings.values import InvalidValue, read_text

STANDARD_PREFIX = "whsec_"

_REFERENCE = re.compile(r"(env|file|credential):(.*)", re.DOTALL)
_EMBEDDED_REFERENCE = re.compile(r"(?:basic|bearer|token)\s+(?:env|file|credential):", re.IGNORECASE)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MAX_FILE_SIZE = 64 * 1024
_MIN_SIGNING_SECRET = 16
_STAND_IN = "not-available-here"  # valid as a token, a signing secret and a header
URL_STAND_IN = f"https://{_STAND_IN}.example"


class Unavailable(InvalidValue):
    """A secret that may exist where the service runs, but not here."""


class LoadContext(msgspec.Struct, frozen=True, kw_only=True):
    """What values may refer to: the environment, and the folder that relative paths start from.

    ``route_names`` collects the names of routes during the load, so that each is unique. Without ``needs_secrets``,
    ``unavailable`` collects the references that cannot be looked up here; these secrets get a stand-in.
    """

    environ: Mapping[str, str] = msgspec.field(default_factory=dict)
    folder: Path = Path()
    route_names: set[str] = msgspec.field(default_factory=set)
    needs_secrets: bool = True
    unavailable: list[str] = msgspec.field(default_factory=list)

    @property
    def context(self) -> "LoadContext":
        """Itself, for readers that are called without pydantic."""
        return self


class Reading(Protocol):
    """The second argument of a reader: pydantic's ``ValidationInfo``, or a LoadContext itself."""

    @property
    def context(self) -> Any:  # noqa: ANN401 -- as pydantic declares it
        """The loader's context; None for settings made in code."""
        ...


def load_context(info: Reading) -> LoadContext:
    """Return the loader's context; an empty one for settings made in code."""
    return info.context if isinstance(info.context, LoadContext) else LoadContext()


def is_stand_in(value: Secret | str | None) -> bool:
    """Whether a value replaces a secret, or a URL, that could not be looked up here."""
    return (value.reveal() if isinstance(value, Secret) else value) in (_STAND_IN, URL_STAND_IN)


def is_reference(raw: object) -> bool:
    """Whether a value is a reference to a secret, not a secret itself."""
    return isinstance(raw, str) and _REFERENCE.fullmatch(raw) is not None


def unset_variable(raw: object, environ: Mapping[str, str]) -> str | None:
    """Return the environment variable that *raw* refers to, if it is unset or empty."""
    match = _REFERENCE.fullmatch(raw) if isinstance(raw, str) else None
    if match and match[1] == "env" and _VARIABLE.fullmatch(match[2]) and not environ.get(match[2]):
        return match[2]
    return None


def resolve(text: str, context: LoadContext, *, stand_in: str = _STAND_IN) -> str:
    """Return the secret that a reference points to; return any other text unchanged."""
    match = _REFERENCE.fullmatch(text)
    if not match:
        return text
    try:
        return _look_up(match[1], match[2], context)
    except Unavailable:
        if context.needs_secrets:
            raise
        if text not in context.unavailable:
            context.unavailable.append(text)
        return stand_in


def _look_up(kind: str, name: str, context: LoadContext) -> str:
    match kind:
        case "env":
            return _from_environment(name, context.environ)
        case "file":
            return _from_file(resolve_path(name, context), kind="file")
        case _:
            return _from_credential(name, context.environ)


def _from_environment(name: str, environ: Mapping[str, str]) -> str:
    if not _VARIABLE.fullmatch(name):
        raise InvalidValue("is not a reference: env: must be followed by a variable name, such as env:KLING_API_KEY")
    if name not in environ:
        raise Unavailable(
            f"the environment variable {name} is not set; set it before the start, or change the reference"
        )
    if not environ[name]:
        raise InvalidValue(
            f"the environment variable {name} is empty; set it before the start, or change the reference"
        )
    return environ[name]


def _from_credential(name: str, environ: Mapping[str, str]) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.@-]+", name) or name in (".", ".."):
        raise InvalidValue("is not a reference: credential: must be followed by a name from systemd's LoadCredential=")
    folder = environ.get("CREDENTIALS_DIRECTORY")
    if not folder:
        raise Unavailable(
            f"$CREDENTIALS_DIRECTORY is not set; start with systemd and LoadCredential={name}:/path, or use file:"
        )
    return _from_file(Path(folder) / name, kind="credential")


def _from_file(path: Path, *, kind: str) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_FILE_SIZE + 1)
    except FileNotFoundError:
        raise Unavailable(
            f"the {kind} {path} does not exist; write the secret there, or change the reference"
        ) from None
    except OSError as exc:
        error = Unavailable if isinstance(exc, PermissionError) else InvalidValue
        raise error(
            f"the {kind} {path} cannot be read: {exc.strerror}; make it readable for the service's user"
        ) from None
    if len(content) > _MAX_FILE_SIZE:
        raise InvalidValue(f"the {kind} {path} is too large for a secret; it must contain only the secret")
    try:
        secret = content.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError:
        raise InvalidValue(f"the {kind} {path} is not UTF-8 text; store the secret as text") from None
    if not secret:
        raise InvalidValue(f"the {kind} {path} is empty; write the secret there")
    return secret


def resolve_path(text: str, context: LoadContext) -> Path:
    """Return an absolute path: relative ones start from the configuration's folder, ``~`` is the user's home."""
    if not text or "\0" in text:
        raise InvalidValue("must be a path")
    path = Path(text)
    if text == "~" or text.startswith("~/"):
        home = context.environ.get("HOME")
        if not home:
            raise InvalidValue("begins with ~, but $HOME is not set; write the whole path")
        path = Path(home) / text[2:]
    # Not resolve(): operators use a symbolic link to move a store, so it is followed only when opened.
    return Path.cwd() / context.folder / path


def read_secret(raw: object, info: Reading) -> Secret:
    """Parse a secret that is valid in a header: one line of printable ASCII."""
    if isinstance(raw, Secret):
        return raw
    text = resolve(read_text(raw), load_context(info))
    if not text:
        raise InvalidValue("is empty; write the secret, or a reference such as env:NAME")
    if not text.isascii() or not text.isprintable() or text != text.strip():
        raise InvalidValue(
            "has spaces at its ends, line breaks, or characters other than printable ASCII; write only the secret"
        )
    return Secret(text)


def read_optional_secret(raw: object, info: Reading) -> Secret | None:
    """Parse a secret; None for an empty string."""
    return None if raw is None or raw == "" else read_secret(raw, info)


def read_admin_token(raw: object, info: Reading) -> Secret | None:
    """Parse the admin token. Every program needs it, so its reference must always be resolvable."""
    if isinstance(raw, str):
        resolve(raw, replace(load_context(info), needs_secrets=True))
    return read_optional_secret(raw, info)


def read_api_key(raw: object, info: Reading) -> Secret | None:
    """Parse Kling's key. An unset variable is not an error, because callbacks are accepted without a key."""
    if unset_variable(raw, load_context(info).environ):
        return None
    return read_optional_secret(raw, info)


def read_signing_secret(raw: object, info: Reading) -> Secret:
    """Parse a signing secret: base64, with or without ``whsec_``, or any other text of at least 16 characters."""
    secret = read_secret(raw, info)
    text = secret.reveal()
    if not text.startswith(STANDARD_PREFIX):
        if len(text) < _MIN_SIGNING_SECRET:
            raise InvalidValue(
                f"is too short to sign with; use whsec_ and base64, or at least {_MIN_SIGNING_SECRET} characters"
                " (openssl rand -base64 32 makes one)"
            )
        return secret
    if signing.decode_key(secret) in (b"", text.encode()):  # could not be decoded
        raise InvalidValue("begins with whsec_, but the rest is not base64; copy the whole secret again")
    return secret


def read_optional_signing_secret(raw: object, info: Reading) -> Secret | None:
    """Parse a signing secret; None for an empty string."""
    return None if raw is None or raw == "" else read_signing_secret(raw, info)


def read_header_value(raw: object, info: Reading) -> Secret | str:
    """Parse a header's value: text, or a reference."""
    if isinstance(raw, Secret):
        return raw
    text = read_text(raw)
    if is_reference(text):
        return read_secret(text, info)
    if _EMBEDDED_REFERENCE.match(text):
        raise InvalidValue(
            'mixes a reference with other text; store the whole value, such as "Bearer ...", where the reference points'
        )
    if not text.isascii() or not text.isprintable():
        raise InvalidValue(
            "has line breaks or characters other than printable ASCII, which are not allowed in a header"
        )
    return text


def read_variable_value(raw: object, info: Reading) -> Secret | str:
    """Parse the value of a script's environment variable: any text, or a reference."""
    if isinstance(raw, Secret):
        return raw
    text = read_text(raw)
    value = resolve(text, load_context(info))
    if "\0" in value:
        raise InvalidValue("contains NUL, which is not allowed in an environment variable")
    return Secret(value) if is_reference(text) else value


def read_url_reference(raw: object, info: Reading) -> str:
    """Parse text that may be a reference because it is a secret as a whole, such as a chat's webhook URL."""
    return resolve(read_text(raw), load_context(info), stand_in=URL_STAND_IN)
