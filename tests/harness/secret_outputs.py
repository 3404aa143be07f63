"""Everything that a service shows or keeps, and the search for secrets in it."""

import base64
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from subprocess import CompletedProcess

from harness.running_service import Receiver


def signing_secret(word: str) -> str:
    return "whsec_" + base64.b64encode(f"{word}-of-at-least-24-bytes".encode()).decode()


@dataclass(slots=True)
class Outputs:
    """All outputs by source, and the secrets that they must not contain."""

    secrets: dict[str, str]
    texts: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Each secret, and its other encodings.
        for name, word in list(self.secrets.items()):
            if word.startswith("whsec_"):
                self.secrets[f"{name}, without its prefix"] = word.removeprefix("whsec_")
                self.secrets[f"{name}, decoded"] = base64.b64decode(word.removeprefix("whsec_")).decode()
            self.secrets[f"{name}, in base64"] = base64.b64encode(word.encode()).decode().rstrip("=")

    def record(self, ran: CompletedProcess[str]) -> str:
        """Record a command's output, and return it."""
        self.texts[f"{len(self.texts)} {ran.args[3:]} exit {ran.returncode}"] = ran.stdout + ran.stderr
        return ran.stdout

    def leaks(self, *, ignore: Callable[[str, str], bool] = lambda _where, _name: False) -> list[tuple[str, str, str]]:
        """Return each secret that was found, with its place and context."""
        return [
            (where, name, text[max(0, at - 80) : at + 40])
            for where, text in self.texts.items()
            for name, word in self.secrets.items()
            if (at := text.find(word)) >= 0 and not ignore(where, name)
        ]


def dump_store(receiver: Receiver) -> str:
    """Return the whole content of the store as text; bytes are decoded as Latin-1."""
    with sqlite3.connect(f"{(receiver.folder / 'var' / 'receiver.db').as_uri()}?mode=ro", uri=True) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        cells = [cell for table in tables for row in connection.execute(f"SELECT * FROM {table}") for cell in row]  # noqa: S608 - table names from the schema
    connection.close()
    return "\n".join(cell.decode("latin-1") if isinstance(cell, bytes) else str(cell) for cell in cells)
