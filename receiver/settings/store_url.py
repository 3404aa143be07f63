"""Parses the URL of the database."""

from receiver.settings import secrets, values
from receiver.settings.paths import probe
from receiver.settings.values import InvalidValue

SQLITE = "sqlite:"


def read_store_url(raw: object, info: secrets.Reading) -> str:
    """Parse the database's URL; the path becomes absolute."""
    text = values.read_text(raw)
    if text.startswith(("postgresql:", "postgres:")):
        raise InvalidValue('this version supports only SQLite; write "sqlite:var/receiver.db"')
    if text.startswith("sqlite:////"):
        text = SQLITE + text.removeprefix("sqlite:///")
    name = text.removeprefix(SQLITE)
    if not text.startswith(SQLITE) or not name or name.startswith(("//", ":")) or "?" in name:
        raise InvalidValue(
            'must be "sqlite:" and the path of a file: "sqlite:var/receiver.db", "sqlite:/var/lib/receiver.db"'
        )
    path = secrets.resolve_path(name, secrets.load_context(info))
    place = probe(path)
    if name.endswith("/") or place.is_folder:
        raise InvalidValue(f"{path} is a folder; write the path of a file in it")
    if place.problem:
        raise InvalidValue(place.problem)
    return f"{SQLITE}{path}"
