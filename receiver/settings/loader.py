"""Finding config.toml, reading it, and naming every fault at once by file, line and key."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from receiver.domain.errors import ConfigurationError
from receiver.settings import toml_document
from receiver.settings.diagnostics import Sources, explain_all
from receiver.settings.environment import override
from receiver.settings.export import Shown, leaves, show
from receiver.settings.paths import look
from receiver.settings.secrets import Surroundings
from receiver.settings.sections import Settings
from receiver.settings.toml_document import Document, dotted
from receiver.settings.values import printable
from receiver.settings.warnings import doubts

CONFIG_VARIABLE = "KLING_RECEIVER_CONFIG"
FILE_NAME = "config.toml"
SYSTEM_FILE = Path("/etc/kling-receiver") / FILE_NAME
DEFAULT_API_KEY = "env:KLING_API_KEY"


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """The configuration and where it came from.

    ``origins`` tells for each key, such as ``kling.api_key`` or ``routes.0.on``, whether it is from
    ``config.toml:12``, the ``environment`` or a ``default``. ``warnings`` are sentences about what is allowed
    and probably not meant.
    """

    settings: Settings
    path: Path | None = None
    origins: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def find(explicit: Path | None, environ: Mapping[str, str], cwd: Path) -> Path | None:
    """Find the configuration file: the one named, else the first of the usual places that has one.

    Where none has, one that nobody can look at is given: to run on defaults beside a file would be a surprise.
    """
    if explicit is not None:
        return cwd / explicit
    if named := environ.get(CONFIG_VARIABLE):
        return cwd / named
    home = environ.get("XDG_CONFIG_HOME") or (f"{environ['HOME']}/.config" if environ.get("HOME") else "")
    usual = [cwd / FILE_NAME, SYSTEM_FILE]
    if home.startswith("/"):
        usual.insert(1, Path(home) / "kling-receiver" / FILE_NAME)
    seen = {each: look(each) for each in usual}
    there = (path for path, place in seen.items() if place.is_file)
    hidden = (path for path, place in seen.items() if place.hidden)
    return next(there, None) or next(hidden, None)


def load(path: Path | None = None, environ: Mapping[str, str] | None = None) -> Loaded:
    """Load the configuration. Raises ConfigurationError with every fault there is, and nothing else."""
    environ = os.environ if environ is None else environ
    cwd = Path.cwd()
    found = find(path, environ, cwd)
    file = toml_document.read(found, label=_label(found, cwd)) if found else Document()
    said = override(file.values, environ, Settings)
    values = _completed(said.values)
    sources = Sources(file=file, variables=said.variables)
    around = Surroundings(environ=environ, folder=found.parent if found else cwd)
    try:
        settings = Settings.model_validate(values, context=around)
    except ValidationError as exc:
        raise _refusal([*explain_all(exc, Settings, sources), *said.faults]) from None
    if said.faults:
        raise _refusal(said.faults)
    return Loaded(
        settings=settings,
        path=found,
        origins={dotted(location): sources.origin(location) for location, _ in leaves(settings)},
        warnings=tuple(sources.prefix(at) + text for at, text in doubts(settings, values, environ)),
    )


def shown(loaded: Loaded) -> list[Shown]:
    """List every key with its value, secrets hidden, and who said so."""
    return show(loaded.settings, loaded.origins)


def _refusal(faults: Sequence[str]) -> ConfigurationError:
    return ConfigurationError([printable(fault) for fault in faults])


def _label(path: Path, cwd: Path) -> str:
    return str(path.relative_to(cwd)) if path.is_relative_to(cwd) else str(path)


def _completed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Name every section, so that defaults too start from the file's folder, and Kling's usual key where none is."""
    whole = {name: {} for name in Settings.model_fields if name != "routes"} | dict(values)
    kling = whole["kling"]
    if isinstance(kling, dict) and not any(kling.get(name) for name in ("access_key", "secret_key")):
        whole["kling"] = {"api_key": DEFAULT_API_KEY, **kling}
    return whole
