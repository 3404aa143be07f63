"""Finds the service's admin URL and token: as given, from a profile, the environment, or the configuration."""

import getpass
import os
from pathlib import Path
from typing import TYPE_CHECKING

from receiver.domain.errors import ServiceUnreachable

if TYPE_CHECKING:
    from receiver.settings.client import ClientSettings

URL_VARIABLE = "KLING_RECEIVER_URL"
PROFILE_VARIABLE = "KLING_RECEIVER_PROFILE"
TOKEN_VARIABLE = "KLING_RECEIVER_TOKEN"  # noqa: S105 -- the name of a variable

_FILE_NAME = "admin-token"
_LOOPBACK_OF = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 -- compared with the configuration, not bound


def discover(url: str | None, token: str | None, config: Path | None, profile: str | None = None) -> tuple[str, str]:
    """Return the URL and the token, each from the first of these that has it.

    The arguments, the named *profile*, the variables of URL and token, the profile that a variable names, and the
    configuration. An explicit *config* takes precedence over all variables. An explicit *profile* needs no
    configuration.
    """
    if profile is not None:
        url, token = _complete_from_profile(profile, url, token)
    if config is None:
        url, token = url or os.environ.get(URL_VARIABLE), token or os.environ.get(TOKEN_VARIABLE)
        named = os.environ.get(PROFILE_VARIABLE)
        if named and profile is None and not (url and token):
            url, token = _complete_from_profile(named, url, token)
    if url and token:
        return url, token
    if profile is not None:
        raise ServiceUnreachable(
            f"The profile {profile!r} has no token.", remedy=f"Add one to it, set {TOKEN_VARIABLE}, or pass --token."
        )
    from receiver.settings.client import load_client  # noqa: PLC0415 -- a client with URL and token does not need it

    settings = load_client(config)
    return url or _admin_url(settings), token or _read_token(settings)


def _complete_from_profile(name: str, url: str | None, token: str | None) -> tuple[str | None, str | None]:
    from receiver.settings.profiles import find_profile  # noqa: PLC0415 -- most clients use no profile

    found = find_profile(name, os.environ)
    return url or found.url, token or found.resolve_token(os.environ)


def _admin_url(settings: "ClientSettings") -> str:
    host = _LOOPBACK_OF.get(settings.listen.host, settings.listen.host)
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.listen.port}"


def _read_token(settings: "ClientSettings") -> str:
    """Return the admin token from the configuration, else from the file written at the service's first start."""
    if settings.token:
        return settings.token.reveal()
    path = settings.data_dir / _FILE_NAME
    try:
        return path.read_text("utf-8-sig").strip()
    except FileNotFoundError as exc:
        raise ServiceUnreachable(
            f"The service has not run here yet: {path} does not exist.",
            remedy=(
                "Start it with `kling-receiver serve`, pass its configuration with `--config`, "
                "or for a service on another machine `--url` and `--token`."
            ),
        ) from exc
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8 text"
        raise ServiceUnreachable(
            f"The admin token in {path} cannot be read ({reason}).",
            remedy="Run the command as the service's own user, or set KLING_RECEIVER_TOKEN.",
        ) from exc


def current_user() -> str:
    """Return the name of the operating system's user, in ASCII."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a container with a user ID that has no name
        name = f"uid {os.getuid()}"
    return name.encode("ascii", "backslashreplace").decode()
