"""Parses the URL of the database, and the name of this node."""

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from receiver.settings import secrets, values
from receiver.settings.paths import probe
from receiver.settings.values import InvalidValue

SQLITE = "sqlite:"

_POSTGRES = ("postgresql:", "postgres:")
_NODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_EXAMPLE = '"postgresql://kling@db.example.com/kling"'


class StoreUrl(str):
    """The URL of the database. ``data_dir`` is the folder of the files that are beside the database."""

    __slots__ = ("data_dir",)

    data_dir: Path

    def __new__(cls, url: str, data_dir: Path) -> Self:
        """Return a URL with its folder."""
        self = super().__new__(cls, url)
        self.data_dir = data_dir
        return self

    @property
    def is_postgres(self) -> bool:
        """Whether the database is a PostgreSQL server's."""
        return not self.startswith(SQLITE)

    @property
    def path(self) -> Path:
        """The SQLite file."""
        if self.is_postgres:
            raise ValueError(f"{self} is not a file")
        return Path(self.removeprefix(SQLITE))


def read_store_url(raw: object, info: secrets.Reading) -> StoreUrl:
    """Parse the database's URL; the path of a SQLite file becomes absolute."""
    text = values.read_text(raw)
    if text.startswith(_POSTGRES):
        return StoreUrl(_checked_server(text), secrets.resolve_path("var", secrets.load_context(info)))
    if text.startswith("sqlite:////"):
        text = SQLITE + text.removeprefix("sqlite:///")
    name = text.removeprefix(SQLITE)
    if not text.startswith(SQLITE) or not name or name.startswith(("//", ":")) or "?" in name:
        raise InvalidValue(
            'must be "sqlite:" and the path of a file: "sqlite:var/receiver.db", "sqlite:/var/lib/receiver.db"; '
            f"or the URL of a PostgreSQL database: {_EXAMPLE}"
        )
    path = secrets.resolve_path(name, secrets.load_context(info))
    place = probe(path)
    if name.endswith("/") or place.is_folder:
        raise InvalidValue(f"{path} is a folder; write the path of a file in it")
    if place.problem:
        raise InvalidValue(place.problem)
    return StoreUrl(f"{SQLITE}{path}", path.parent)


def _checked_server(text: str) -> str:
    """Return the URL of a PostgreSQL database. Raises InvalidValue, which never shows a password."""
    try:
        parts = urlsplit(text)
        has_password, _ = parts.password is not None or "password=" in parts.query, parts.port
    except ValueError as exc:
        raise InvalidValue(f"must be the URL of a PostgreSQL database: {_EXAMPLE}") from exc
    if has_password:
        raise InvalidValue('contains a password; write it as password = "env:PGPASSWORD" instead')
    if not parts.path.strip("/"):
        raise InvalidValue(f"names no database; write {_EXAMPLE}")
    if find_spec("asyncpg") is None:
        raise InvalidValue(
            "needs the extra `postgres`, which is not installed; in a checkout: make postgres, "
            "else: pip install 'kling-receiver[postgres]'"
        )
    return text


def read_node(raw: object) -> str:
    """Parse the name of this node; empty for the host's name."""
    text = values.read_text(raw)
    if text and not _NODE.fullmatch(text):
        raise InvalidValue("must be up to 63 letters, digits, dots, hyphens and underscores, such as a host name")
    return text
