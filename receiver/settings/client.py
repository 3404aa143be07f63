"""The few settings that a client needs: the admin address, the token, the store, and the dialect.

A client often runs in another shell than the service, without the secrets of routes and of Kling. So nothing else is
looked up or checked here; the service checks everything at its start. A client is also a command that should be over in
a fraction of a second, so these keys are read without the definitions of all others, which take longer to load.
"""

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from receiver.domain.errors import ConfigurationError
from receiver.domain.secret import Secret
from receiver.settings import secrets, toml_document, values
from receiver.settings.addresses import Address, read_address
from receiver.settings.config_file import find, label_of
from receiver.settings.dialect import Dialect
from receiver.settings.store_url import StoreUrl, read_store_url
from receiver.settings.toml_document import Document, Location
from receiver.settings.value_sources import ValueSources
from receiver.settings.variables import PREFIX, parse_structure

_read_dialect = partial(values.read_choice, choices={str(each): each for each in Dialect})

_KEYS: Mapping[Location, tuple[str, Callable[[object, secrets.LoadContext], Any]]] = {
    ("admin", "listen"): ("127.0.0.1:8701", lambda raw, _: read_address(raw)),
    ("admin", "token"): ("", secrets.read_admin_token),
    ("store", "url"): ("sqlite:var/receiver.db", read_store_url),
    ("store", "password"): ("", secrets.read_optional_secret),
    ("kling", "dialect"): (Dialect.OFFICIAL, lambda raw, _: _read_dialect(raw)),
}
"""A client's keys, each with its default as the file would say it, and its reader."""


class ClientSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of a client."""

    listen: Address
    token: Secret | None
    store: StoreUrl
    store_password: Secret | None
    dialect: Dialect

    @property
    def data_dir(self) -> Path:
        """The folder of the files beside the database."""
        return self.store.data_dir


def load_client(path: Path | None = None, environ: Mapping[str, str] | None = None) -> ClientSettings:
    """Load the settings of a client. Raises ConfigurationError with all errors in them, and nothing else."""
    environ = os.environ if environ is None else environ
    cwd = Path.cwd()
    found = find(path, environ, cwd)
    file = toml_document.read(found, label=label_of(found, cwd)) if found else Document()
    tables, variables, faults = _read_tables(file, environ)
    sources = ValueSources(file=file, variables=variables)
    context = secrets.LoadContext(environ=environ, folder=found.parent if found else cwd)
    read: dict[Location, Any] = {}
    for location, (default, reader) in _KEYS.items():
        section, key = location
        table = tables[str(section)]
        try:
            read[location] = reader(table.get(key, default), context) if isinstance(table, dict) else None
        except ValueError as exc:
            faults[location] = str(exc)
    if faults:
        placed = sorted(faults, key=sources.sort_key)
        raise ConfigurationError([values.printable(sources.prefix(at) + faults[at]) for at in placed])
    listen, token, store, password, dialect = read.values()
    return ClientSettings(listen=listen, token=token, store=store, store_password=password, dialect=dialect)


def _read_tables(
    file: Document, environ: Mapping[str, str]
) -> tuple[Mapping[str, Any], Mapping[Location, str], dict[Location, str]]:
    """Return the sections with the environment's overrides, the variable behind each override, and the faults."""
    tables: dict[str, Any] = {}
    variables: dict[Location, str] = {}
    faults: dict[Location, str] = {}
    for section, key in _KEYS:
        whole, single = f"{PREFIX}{section}".upper(), f"{PREFIX}{section}__{key}".upper()
        if section not in tables and whole in environ:
            variables[(section,)] = whole
            try:
                tables[str(section)] = parse_structure(environ[whole])
            except ValueError as exc:
                faults[(section,)] = str(exc)
        table = tables.setdefault(str(section), file.values.get(str(section), {}))
        if not isinstance(table, dict):
            faults.setdefault((section,), f"must be one section; start it with [{section}]")
        elif single in environ:
            tables[str(section)] = {**table, key: environ[single]}
            variables[section, key] = single
    return tables, variables, faults
