"""Where the service is, and the token it wants: found by its configuration."""

import getpass
import os
from pathlib import Path

from receiver.domain.errors import ServiceUnreachable
from receiver.settings import Settings, load

_FILE_NAME = "admin-token"
_LOOPBACK_OF = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 -- what others bind; we call loopback


def discover(url: str | None, token: str | None, config: Path | None) -> tuple[str, str]:
    """Tell the URL and the token, each as given, else from the configuration."""
    if url is not None and token is not None:
        return url, token
    settings = load(config).settings
    return url or _admin_url(settings), token or _read_token(settings)


def _admin_url(settings: Settings) -> str:
    host = _LOOPBACK_OF.get(settings.admin.listen.host, settings.admin.listen.host)
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.admin.listen.port}"


def _read_token(settings: Settings) -> str:
    """Find the admin token: from the configuration, else where the service put it at its first start."""
    if settings.admin.token:
        return settings.admin.token.reveal()
    path = settings.data_dir / _FILE_NAME
    try:
        return path.read_text("utf-8").strip()
    except FileNotFoundError as exc:
        raise ServiceUnreachable(
            f"No service has run here yet: {path} does not exist.",
            remedy="Start it with `kling-receiver serve`, or name the configuration it runs on with --config.",
        ) from exc
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is no UTF-8 text"
        raise ServiceUnreachable(
            f"The admin token in {path} cannot be read ({reason}).",
            remedy="Run the command as the service's own user, or set KLING_RECEIVER__ADMIN__TOKEN.",
        ) from exc


def current_user() -> str:
    """Name the user of this machine who asks."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a container that runs as a number nobody has a name for
        name = f"uid {os.getuid()}"
    return name.encode("ascii", "backslashreplace").decode()
