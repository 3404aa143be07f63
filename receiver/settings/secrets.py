"""Secrets of the configuration: a string as it stands, or a reference to where the secret is kept.

``env:NAME`` is an environment variable, ``file:PATH`` the text of a file (without line breaks at its end),
``credential:NAME`` what systemd laid into ``$CREDENTIALS_DIRECTORY``. No sentence of a fault repeats a secret.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationInfo

from receiver.domain import signing
from receiver.domain.model import Secret
from receiver.settings.values import InvalidValue, read_text

STANDARD_PREFIX = "whsec_"

_REFERENCE = re.compile(r"(env|file|credential):(.*)", re.DOTALL)
_EMBEDDED_REFERENCE = re.compile(r"(?:basic|bearer|token)\s+(?:env|file|credential):", re.IGNORECASE)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MAX_FILE_SIZE = 64 * 1024
_MIN_SIGNING_SECRET = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadContext:
    """What values may refer to: the environment, and the folder that relative paths start from.

    ``names`` gathers the names of routes while they are read, so that none is given twice.
    """

    environ: Mapping[str, str] = field(default_factory=dict)
    folder: Path = Path()
    route_names: set[str] = field(default_factory=set)


def load_context(info: ValidationInfo) -> LoadContext:
    """Give what the loader put beside the values; nothing to refer to for values made in code."""
    return info.context if isinstance(info.context, LoadContext) else LoadContext()


def is_reference(raw: object) -> bool:
    """Whether a value says where a secret is, and is none itself."""
    return isinstance(raw, str) and _REFERENCE.fullmatch(raw) is not None


def unset_variable(raw: object, environ: Mapping[str, str]) -> str | None:
    """Name the environment variable that *raw* refers to and that holds nothing."""
    match = _REFERENCE.fullmatch(raw) if isinstance(raw, str) else None
    if match and match[1] == "env" and _VARIABLE.fullmatch(match[2]) and not environ.get(match[2]):
        return match[2]
    return None


def resolve(text: str, context: LoadContext) -> str:
    """Follow a reference to its secret; give any other text as it is."""
    match = _REFERENCE.fullmatch(text)
    if not match:
        return text
    kind, name = match.groups()
    match kind:
        case "env":
            return _from_environment(name, context.environ)
        case "file":
            return _from_file(resolve_path(name, context), kind="file")
        case _:
            return _from_credential(name, context.environ)


def _from_environment(name: str, environ: Mapping[str, str]) -> str:
    if not _VARIABLE.fullmatch(name):
        raise InvalidValue(
            "is no reference: after env: stands the name of an environment variable, such as env:KLING_API_KEY"
        )
    if name not in environ:
        raise InvalidValue(
            f"the environment variable {name} is not set; set it before the start, or refer to another place"
        )
    if not environ[name]:
        raise InvalidValue(
            f"the environment variable {name} is empty; set it before the start, or refer to another place"
        )
    return environ[name]


def _from_credential(name: str, environ: Mapping[str, str]) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.@-]+", name) or name in (".", ".."):
        raise InvalidValue("is no reference: after credential: stands the name that systemd's LoadCredential= gives it")
    folder = environ.get("CREDENTIALS_DIRECTORY")
    if not folder:
        raise InvalidValue(
            f"there is no $CREDENTIALS_DIRECTORY; start with systemd and LoadCredential={name}:/path, or use file:"
        )
    return _from_file(Path(folder) / name, kind="credential")


def _from_file(path: Path, *, kind: str) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_FILE_SIZE + 1)
    except FileNotFoundError:
        raise InvalidValue(
            f"the {kind} {path} does not exist; write the secret there, or refer to another place"
        ) from None
    except OSError as exc:
        raise InvalidValue(
            f"the {kind} {path} cannot be read: {exc.strerror}; let the service's user read it"
        ) from None
    if len(content) > _MAX_FILE_SIZE:
        raise InvalidValue(f"the {kind} {path} is too large for a secret; it may hold nothing else")
    try:
        secret = content.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise InvalidValue(f"the {kind} {path} is no UTF-8 text; store the secret as text") from None
    if not secret:
        raise InvalidValue(f"the {kind} {path} is empty; write the secret there")
    return secret


def resolve_path(text: str, context: LoadContext) -> Path:
    """Find a path: relative ones start from the configuration's folder, ``~`` is the user's home."""
    if not text or "\0" in text:
        raise InvalidValue("must be a path")
    path = Path(text)
    if text == "~" or text.startswith("~/"):
        home = context.environ.get("HOME")
        if not home:
            raise InvalidValue("begins with ~, but $HOME is not set; write the whole path")
        path = Path(home) / text[2:]
    # Not resolve(): a link is the operator's way to move a store, and is followed when it is opened.
    return Path.cwd() / context.folder / path


def read_secret(raw: object, info: ValidationInfo) -> Secret:
    """Read a secret that may travel in a header: one line, nothing invisible."""
    if isinstance(raw, Secret):
        return raw
    text = resolve(read_text(raw), load_context(info))
    if not text:
        raise InvalidValue("is empty; give the secret, or a reference such as env:NAME")
    if not text.isascii() or not text.isprintable() or text != text.strip():
        raise InvalidValue(
            "holds blanks at its ends, line breaks, or characters other than plain ASCII; give the secret alone"
        )
    return Secret(text)


def read_optional_secret(raw: object, info: ValidationInfo) -> Secret | None:
    """Read a secret, or nothing from an empty string."""
    return None if raw is None or raw == "" else read_secret(raw, info)


def read_api_key(raw: object, info: ValidationInfo) -> Secret | None:
    """Read Kling's key. A variable that is not set is no fault: callbacks are taken without a key."""
    if unset_variable(raw, load_context(info).environ):
        return None
    return read_optional_secret(raw, info)


def read_signing_secret(raw: object, info: ValidationInfo) -> Secret:
    """Read a secret that signs: ``whsec_`` and base64, or 16 characters and more that count as they are."""
    secret = read_secret(raw, info)
    text = secret.reveal()
    if not text.startswith(STANDARD_PREFIX):
        if len(text) < _MIN_SIGNING_SECRET:
            raise InvalidValue(
                f"is too short to sign with; give whsec_ and base64, or at least {_MIN_SIGNING_SECRET} characters"
                " (openssl rand -base64 32 makes one)"
            )
        return secret
    if signing.decode_key(secret) in (b"", text.encode()):  # nothing that could be decoded
        raise InvalidValue("begins with whsec_ but no base64 follows; copy it again, whole")
    return secret


def read_optional_signing_secret(raw: object, info: ValidationInfo) -> Secret | None:
    """Read a secret that signs, or nothing from an empty string."""
    return None if raw is None or raw == "" else read_signing_secret(raw, info)


def read_header_value(raw: object, info: ValidationInfo) -> Secret | str:
    """Read the value of a header: text, or a reference."""
    if isinstance(raw, Secret):
        return raw
    text = read_text(raw)
    if is_reference(text):
        return read_secret(text, info)
    if _EMBEDDED_REFERENCE.match(text):
        raise InvalidValue(
            'holds a reference beside other text; put the whole value, such as "Bearer ...", where it leads'
        )
    if not text.isascii() or not text.isprintable():
        raise InvalidValue("holds line breaks or characters other than plain ASCII, which no header can carry")
    return text


def read_variable_value(raw: object, info: ValidationInfo) -> Secret | str:
    """Read the value of a script's environment variable: any text, or a reference."""
    if isinstance(raw, Secret):
        return raw
    text = read_text(raw)
    value = resolve(text, load_context(info))
    if "\0" in value:
        raise InvalidValue("holds a NUL, which no environment variable can carry")
    return Secret(value) if is_reference(text) else value


def read_url_reference(raw: object, info: ValidationInfo) -> str:
    """Read text that may be kept elsewhere because it is a secret as a whole, such as a chat's webhook URL."""
    return resolve(read_text(raw), load_context(info))
