"""The few settings that a client needs: the admin address, the token, the store's path, and the dialect.

A client often runs in another shell than the service, without the secrets of routes and of Kling. So nothing else is
looked up or checked here; the service checks everything at its start.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from receiver.domain.errors import ConfigurationError
from receiver.settings import toml_document
from receiver.settings.diagnostics import ValueSources, describe_errors
from receiver.settings.environment import PREFIX, apply_environment
from receiver.settings.fields import Section
from receiver.settings.finder import find, label_of
from receiver.settings.secrets import LoadContext
from receiver.settings.sections import AdminSettings, KlingSettings, Settings, StoreSettings
from receiver.settings.toml_document import Document
from receiver.settings.values import printable

_KEYS = {"admin": ("listen", "token"), "store": ("url",), "kling": ("dialect",)}
_VARIABLES = frozenset(
    PREFIX + name.upper() for section, keys in _KEYS.items() for name in (section, *(f"{section}__{k}" for k in keys))
)


class ClientSettings(Section):
    """The settings of a client."""

    admin: AdminSettings = Field(default_factory=AdminSettings)
    store: StoreSettings = Field(default_factory=StoreSettings)
    kling: KlingSettings = Field(default_factory=KlingSettings)

    @property
    def data_dir(self) -> Path:
        """The folder of the store and its companion files."""
        return self.store.path.parent


def load_client(path: Path | None = None, environ: Mapping[str, str] | None = None) -> ClientSettings:
    """Load the settings of a client. Raises ConfigurationError with all errors in them, and nothing else."""
    environ = os.environ if environ is None else environ
    cwd = Path.cwd()
    found = find(path, environ, cwd)
    file = toml_document.read(found, label=label_of(found, cwd)) if found else Document()
    own_variables = {name: value for name, value in environ.items() if name in _VARIABLES}
    overrides = apply_environment(_pick(file.values), own_variables, Settings)
    sources = ValueSources(file=file, variables=overrides.variables)
    context = LoadContext(environ=environ, folder=found.parent if found else cwd)
    try:
        return ClientSettings.model_validate(_pick(overrides.values), context=context)
    except ValidationError as exc:
        raise ConfigurationError([printable(each) for each in describe_errors(exc, ClientSettings, sources)]) from None


def _pick(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return only a client's keys. A missing section is added, so that default paths start from the file's folder."""
    picked = {section: values.get(section, {}) for section in _KEYS}
    return {
        section: {key: table[key] for key in _KEYS[section] if key in table} if isinstance(table, dict) else table
        for section, table in picked.items()
    }
