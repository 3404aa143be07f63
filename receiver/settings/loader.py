"""Finds and loads config.toml, and reports all errors at once by file, line and key."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from pydantic import ValidationError

from receiver.domain.errors import ConfigurationError
from receiver.settings import toml_document
from receiver.settings.config_file import find, label_of, skipped_file_warning
from receiver.settings.diagnostics import describe_errors
from receiver.settings.environment import apply_environment
from receiver.settings.export import EffectiveSetting, list_settings, walk_values
from receiver.settings.secrets import LoadContext
from receiver.settings.sections import Settings
from receiver.settings.toml_document import Document, dotted
from receiver.settings.value_sources import ValueSources
from receiver.settings.values import printable
from receiver.settings.warnings import find_warnings

DEFAULT_API_KEY = "env:KLING_API_KEY"


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """The configuration and its sources.

    ``origins`` maps each key, such as ``kling.api_key`` or ``routes.0.on``, to its source: ``config.toml:12``,
    ``environment`` or ``default``. ``warnings`` describe valid settings that are probably mistakes. ``unavailable``
    lists the references to secrets that could not be looked up, if the caller does not need the secrets.
    """

    settings: Settings
    path: Path | None = None
    origins: Mapping[str, str] = msgspec.field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    unavailable: tuple[str, ...] = ()


def load(path: Path | None = None, environ: Mapping[str, str] | None = None, *, needs_secrets: bool = True) -> Loaded:
    """Load the configuration. Raises ConfigurationError with all errors, and nothing else.

    Without *needs_secrets*, a secret that exists only where the service runs is no error: it gets a stand-in.
    """
    environ = os.environ if environ is None else environ
    cwd = Path.cwd()
    found = find(path, environ, cwd)
    file = toml_document.read(found, label=label_of(found, cwd)) if found else Document()
    overrides = apply_environment(file.values, environ, Settings)
    values = _with_defaults(overrides.values)
    sources = ValueSources(file=file, variables=overrides.variables)
    context = LoadContext(environ=environ, folder=found.parent if found else cwd, needs_secrets=needs_secrets)
    try:
        settings = Settings.model_validate(values, context=context)
    except ValidationError as exc:
        raise _configuration_error([*describe_errors(exc, Settings, sources), *overrides.errors]) from None
    if overrides.errors:
        raise _configuration_error(overrides.errors)
    skipped = skipped_file_warning(found, path, environ, cwd)
    doubts = tuple(sources.prefix(at) + text for at, text in find_warnings(settings, values, environ))
    return Loaded(
        settings=settings,
        path=found,
        origins={dotted(location): sources.origin(location) for location, _ in walk_values(settings)},
        warnings=(*((skipped,) if skipped else ()), *doubts),
        unavailable=tuple(context.unavailable),
    )


def effective_settings(loaded: Loaded) -> list[EffectiveSetting]:
    """Return every key with its value and source; secrets are masked."""
    return list_settings(loaded.settings, loaded.origins)


def _configuration_error(errors: Sequence[str]) -> ConfigurationError:
    return ConfigurationError([printable(error) for error in errors])


def _with_defaults(values: Mapping[str, Any]) -> dict[str, Any]:
    """Add missing sections, whose paths then start from the file's folder, and the default key if there is none."""
    whole = {name: {} for name in Settings.model_fields if name != "routes"} | dict(values)
    kling = whole["kling"]
    if isinstance(kling, dict) and not any(kling.get(name) for name in ("access_key", "secret_key")):
        whole["kling"] = {"api_key": DEFAULT_API_KEY, **kling}
    return whole
