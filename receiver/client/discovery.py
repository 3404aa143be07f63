"""Finds the service's admin URL and token from its configuration."""

import getpass
import os
from pathlib import Path
from typing import TYPE_CHECKING

from receiver.domain.errors import ServiceUnreachable

if TYPE_CHECKING:
    from receiver.settings import Settings

_FILE_NAME = "admin-token"
_LOOPBACK_OF = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 -- compared with the configuration, not bound


def discover(url: str | None, token: str | None, config: Path | None) -> tuple[str, str]:
    """Return the URL and the token, each as given, else from the configuration."""
    if url is not None and token is not None:
        return url, token
    from receiver.settings import load  # noqa: PLC0415 -- it takes most of the client's import time

    settings = load(config, needs_secrets=False).settings
    return url or _admin_url(settings), token or _read_token(settings)


def _admin_url(settings: "Settings") -> str:
    host = _LOOPBACK_OF.get(settings.admin.listen.host, settings.admin.listen.host)
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.admin.listen.port}"


def _read_token(settings: "Settings") -> str:
    """Return the admin token from the configuration, else from the file written at the service's first start."""
    if settings.admin.token:
        return settings.admin.token.reveal()
    path = settings.data_dir / _FILE_NAME
    try:
        return path.read_text("utf-8-sig").strip()
    except FileNotFoundError as exc:
        raise ServiceUnreachable(
            f"The service has not run here yet: {path} does not exist.",
            remedy="Start it with `kling-receiver serve`, or pass its configuration with `--config`.",
        ) from exc
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8 text"
        raise ServiceUnreachable(
            f"The admin token in {path} cannot be read ({reason}).",
            remedy="Run the command as the service's own user, or set KLING_RECEIVER__ADMIN__TOKEN.",
        ) from exc


def current_user() -> str:
    """Return the name of the operating system's user, in ASCII."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a container with a user ID that has no name
        name = f"uid {os.getuid()}"
    return name.encode("ascii", "backslashreplace").decode()
