"""Inspects paths of the configuration with the rights of the current user."""

import stat
from pathlib import Path

import msgspec


class PathInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What exists at a path. ``problem`` is a sentence with a remedy if the path could not be inspected."""

    exists: bool = False
    is_file: bool = False
    is_folder: bool = False
    problem: str = ""


def probe(path: Path) -> PathInfo:
    """Inspect *path* for an error message or a warning. Never raises OSError."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: not a possible path
        return PathInfo()
    except PermissionError as exc:
        remedy = "run this as the service's user, and give it access to the parent folders"
        return PathInfo(problem=f"{path} cannot be inspected: {exc.strerror}; {remedy}")
    except OSError as exc:
        return PathInfo(problem=f"{path} cannot be inspected: {exc.strerror}; name another path")
    return PathInfo(exists=True, is_file=stat.S_ISREG(mode), is_folder=stat.S_ISDIR(mode))
