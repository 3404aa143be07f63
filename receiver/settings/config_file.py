"""Finds the configuration file at the usual paths, and recognizes a ``config.toml`` of another program."""

import tomllib
from collections.abc import Mapping
from pathlib import Path

from receiver.settings.paths import probe

CONFIG_VARIABLE = "KLING_RECEIVER_CONFIG"
FILE_NAME = "config.toml"
OWN_FILE_NAME = "kling-receiver.toml"
SYSTEM_FILE = Path("/etc/kling-receiver") / FILE_NAME

_MAX_FOREIGN_SIZE = 1 << 20
_OUR_TABLES = frozenset(
    (
        "admin",
        "archive",
        "callbacks",
        "costs",
        "gateway",
        "kling",
        "network",
        "poll",
        "public",
        "retention",
        "routes",
        "store",
    )
)


def find(explicit: Path | None, environ: Mapping[str, str], cwd: Path) -> Path | None:
    """Return the configuration file: the named one, else the first that exists at the usual paths.

    A ``config.toml`` in *cwd* that belongs to another program is skipped. If no file exists, a path that cannot be
    inspected is returned, because silently ignoring a file would be a surprise.
    """
    if explicit is not None:
        return cwd / explicit
    if named := environ.get(CONFIG_VARIABLE):
        return cwd / named
    usual = [cwd / OWN_FILE_NAME, cwd / FILE_NAME, SYSTEM_FILE]
    if folder := user_folder(environ):
        usual.insert(2, folder / FILE_NAME)
    probed = {each: probe(each) for each in usual}
    existing = (path for path, info in probed.items() if info.is_file and not (path == usual[1] and is_foreign(path)))
    unreadable = (path for path, info in probed.items() if info.problem)
    return next(existing, None) or next(unreadable, None)


def user_folder(environ: Mapping[str, str]) -> Path | None:
    """Return the folder of the user's own configuration; None for a user without a home."""
    home = environ.get("XDG_CONFIG_HOME") or (f"{environ['HOME']}/.config" if environ.get("HOME") else "")
    return Path(home) / "kling-receiver" if home.startswith("/") else None


def skipped_file_warning(found: Path | None, explicit: Path | None, environ: Mapping[str, str], cwd: Path) -> str:
    """Return a sentence if the search skipped a ``config.toml`` of another program, else an empty string."""
    candidate = cwd / FILE_NAME
    if explicit is not None or environ.get(CONFIG_VARIABLE) or found in (candidate, cwd / OWN_FILE_NAME):
        return ""
    if not is_foreign(candidate):
        return ""
    instead = found or "the defaults"
    return (
        f"{FILE_NAME} in this folder is skipped: it has no table of kling-receiver, such as [kling]. Using {instead}; "
        f"to use another file, name it {OWN_FILE_NAME} or pass --config."
    )


def is_foreign(path: Path) -> bool:
    """Return whether a file is valid TOML with tables, none of which is a section of this configuration."""
    try:
        with path.open("rb") as file:
            values = tomllib.loads(file.read(_MAX_FOREIGN_SIZE).decode("utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return False  # the loader reports what is wrong with it
    return bool(values) and _OUR_TABLES.isdisjoint(values)


def label_of(path: Path, cwd: Path) -> str:
    """Return a file's name for messages: relative to the working folder if it is in it."""
    return str(path.relative_to(cwd)) if path.is_relative_to(cwd) else str(path)
