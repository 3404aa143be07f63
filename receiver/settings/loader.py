"""Finds and loads config.toml, and reports all errors at once by file, line and key."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from receiver.domain.errors import ConfigurationError
from receiver.settings import toml_document
from receiver.settings.diagnostics import ValueSources, describe_errors
from receiver.settings.environment import apply_environment
from receiver.settings.export import EffectiveSetting, list_settings, walk_values
from receiver.settings.paths import probe
from receiver.settings.secrets import LoadContext
from receiver.settings.sections import Settings
from receiver.settings.toml_document import Document, dotted
from receiver.settings.values import printable
from receiver.settings.warnings import find_warnings

CONFIG_VARIABLE = "KLING_RECEIVER_CONFIG"
FILE_NAME = "config.toml"
SYSTEM_FILE = Path("/etc/kling-receiver") / FILE_NAME
DEFAULT_API_KEY = "env:KLING_API_KEY"


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """The configuration and its sources.

    ``origins`` maps each key, such as ``kling.api_key`` or ``routes.0.on``, to its source: ``config.toml:12``,
    ``environment`` or ``default``. ``warnings`` describe valid settings that are probably mistakes.
    """

    settings: Settings
    path: Path | None = None
    origins: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def find(explicit: Path | None, environ: Mapping[str, str], cwd: Path) -> Path | None:
    """Return the configuration file: the named one, else the first that exists at the usual paths.

    If none exists, a path that cannot be inspected is returned, because silently ignoring a file would be a surprise.
    """
    if explicit is not None:
        return cwd / explicit
    if named := environ.get(CONFIG_VARIABLE):
        return cwd / named
    home = environ.get("XDG_CONFIG_HOME") or (f"{environ['HOME']}/.config" if environ.get("HOME") else "")
    usual = [cwd / FILE_NAME, SYSTEM_FILE]
    if home.startswith("/"):
        usual.insert(1, Path(home) / "kling-receiver" / FILE_NAME)
    probed = {each: probe(each) for each in usual}
    existing = (path for path, info in probed.items() if info.is_file)
    unreadable = (path for path, info in probed.items() if info.problem)
    return next(existing, None) or next(unreadable, None)


def load(path: Path | None = None, environ: Mapping[str, str] | None = None, *, needs_secrets: bool = True) -> Loaded:
    """Load the configuration. Raises ConfigurationError with all errors, and nothing else.

    Without *needs_secrets*, only the reference to the admin token must be resolvable. Use this to find the service.
    """
    environ = os.environ if environ is None else environ
    cwd = Path.cwd()
    found = find(path, environ, cwd)
    file = toml_document.read(found, label=_label(found, cwd)) if found else Document()
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
    return Loaded(
        settings=settings,
        path=found,
        origins={dotted(location): sources.origin(location) for location, _ in walk_values(settings)},
        warnings=tuple(sources.prefix(at) + text for at, text in find_warnings(settings, values, environ)),
    )


def effective_settings(loaded: Loaded) -> list[EffectiveSetting]:
    """Return every key with its value and source; secrets are masked."""
    return list_settings(loaded.settings, loaded.origins)


def _configuration_error(errors: Sequence[str]) -> ConfigurationError:
    return ConfigurationError([printable(error) for error in errors])


def _label(path: Path, cwd: Path) -> str:
    return str(path.relative_to(cwd)) if path.is_relative_to(cwd) else str(path)


def _with_defaults(values: Mapping[str, Any]) -> dict[str, Any]:
    """Add missing sections, so default paths start from the file's folder, and the default key if none is given."""
    whole = {name: {} for name in Settings.model_fields if name != "routes"} | dict(values)
    kling = whole["kling"]
    if isinstance(kling, dict) and not any(kling.get(name) for name in ("access_key", "secret_key")):
        whole["kling"] = {"api_key": DEFAULT_API_KEY, **kling}
    return whole
