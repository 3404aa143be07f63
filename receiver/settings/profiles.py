"""Profiles: services by name, in the user's own configuration, for commands and programs on other machines.

``$XDG_CONFIG_HOME/kling-receiver/profiles.toml`` has one table for each profile: ``url``, ``token`` and ``dialect``.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import msgspec

from receiver.domain.errors import ConfigurationError
from receiver.settings import toml_document, values
from receiver.settings.addresses import check_url
from receiver.settings.config_file import user_folder
from receiver.settings.dialect import Dialect
from receiver.settings.secrets import LoadContext, resolve
from receiver.settings.toml_document import Document, Location
from receiver.settings.value_sources import ValueSources

PROFILE_VARIABLE = "KLING_RECEIVER_PROFILE"
FILE_NAME = "profiles.toml"

_KEYS = ("url", "token", "dialect")
_read_dialect = partial(values.read_choice, choices={str(each): each for each in Dialect})


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """A service by name. ``token`` is as written: a reference, or the token itself; empty if there is none."""

    name: str
    url: str
    token: str
    dialect: Dialect

    def resolve_token(self, environ: Mapping[str, str]) -> str:
        """Return the token, or an empty string if the profile has none. Raises ConfigurationError."""
        path = profiles_file(environ)
        try:
            return resolve(self.token, LoadContext(environ=environ, folder=path.parent if path else Path()))
        except ValueError as exc:
            raise ConfigurationError([f"{path}: {self.name}.token: {exc}"]) from exc


def profiles_file(environ: Mapping[str, str]) -> Path | None:
    """Return the path of the profiles, whether the file exists or not; None for a user without a home."""
    folder = user_folder(environ)
    return None if folder is None else folder / FILE_NAME


def load_profiles(environ: Mapping[str, str]) -> Mapping[str, Profile]:
    """Return all profiles by name; none if there is no file. Raises ConfigurationError with all errors."""
    path = profiles_file(environ)
    if path is None or not path.exists():
        return {}
    document = toml_document.read(path, label=str(path))
    faults: dict[Location, str] = {}
    found = {name: _read_profile(name, table, faults) for name, table in document.values.items()}
    if faults:
        raise _configuration_error(document, faults)
    return {name: profile for name, profile in found.items() if profile}


def find_profile(name: str, environ: Mapping[str, str]) -> Profile:
    """Return the profile of that name. Raises ConfigurationError."""
    found = load_profiles(environ)
    if name in found:
        return found[name]
    path = profiles_file(environ) or FILE_NAME
    fix = values.did_you_mean(name, found) if found else f'add it: [{name}] with url = "https://..." and token = "..."'
    raise ConfigurationError([f"{path}: there is no profile {values.quoted(name)}; {fix}"])


def _read_profile(name: str, table: object, faults: dict[Location, str]) -> Profile | None:
    if not isinstance(table, dict):
        faults[(name,)] = f"must be a table; start it with [{name}]"
        return None
    for key in table:
        if key not in _KEYS:
            faults[name, key] = f"unknown key; {values.did_you_mean(key, _KEYS)}"
    try:
        url = values.read_text(table.get("url", "")).rstrip("/")
        check_url(url)
    except ValueError as exc:
        faults[name, "url"] = str(exc) if "url" in table else 'is missing; write url = "https://tasks.example.com"'
        url = ""
    token, dialect = "", Dialect.OFFICIAL
    try:
        token = values.read_text(table.get("token", ""))
    except ValueError as exc:
        faults[name, "token"] = str(exc)
    try:
        dialect = _read_dialect(table.get("dialect", Dialect.OFFICIAL))
    except ValueError as exc:
        faults[name, "dialect"] = str(exc)
    return Profile(name=name, url=url, token=token, dialect=dialect)


def _configuration_error(document: Document, faults: Mapping[Location, str]) -> ConfigurationError:
    sources = ValueSources(file=document, variables={})
    placed = sorted(faults, key=sources.sort_key)
    return ConfigurationError([values.printable(sources.prefix(at) + faults[at]) for at in placed])
