"""The token of the admin listener: from the configuration, or from a file that the first start creates."""

import os
from pathlib import Path

from receiver.domain.clock import Ids
from receiver.domain.errors import ConfigurationError, StoreUnavailable
from receiver.domain.secret import Secret
from receiver.settings import Settings

TOKEN_FILE = "admin-token"  # noqa: S105 -- the name of a file
"""The name of the token's file in the data folder."""


def admin_token(settings: Settings) -> Secret:
    """Return the admin token. The first start creates it beside the store, readable only by its owner.

    Raises ConfigurationError if its file cannot be read, and StoreUnavailable if it cannot be written.
    """
    if settings.admin.token:
        return settings.admin.token
    path = settings.data_dir / TOKEN_FILE
    try:
        token = path.read_text(encoding="utf-8-sig").strip()
    except FileNotFoundError:
        token = ""
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8 text"
        remedy = "let the service's user read it, or move it away to get a new one, or set [admin] token"
        raise ConfigurationError([f"admin.token: cannot read the token file {path}: {reason}; {remedy}"]) from exc
    return Secret(token or _create_token_file(path))


def _create_token_file(path: Path) -> str:
    """Create a token and its file, atomically: an empty token file would let every client in."""
    token = Ids.token()
    draft = path.with_name(f"{path.name}.part")
    try:
        draft.unlink(missing_ok=True)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(f"{token}\n")
            file.flush()
            os.fsync(descriptor)
        draft.rename(path)
    except OSError as exc:
        raise StoreUnavailable(
            f"Cannot store the admin token: {draft} cannot be written: {exc.strerror}.",
            remedy="Let the service's user write there, remove what is in the way, or set [admin] token.",
        ) from exc
    return token
