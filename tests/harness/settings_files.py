"""What the tests of the configuration share: a file made of a text, and the faults found in it."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from receiver.domain.errors import ConfigurationError
from receiver.settings import Loaded, RouteSettings, load

WEBHOOK = 'webhook = { url = "https://app.example.com/hook" }\n'


def load_text(folder: Path, text: str, environ: Mapping[str, str] | None = None) -> Loaded:
    """Load *text* as the config.toml of *folder*."""
    path = folder / "config.toml"
    path.write_text(text)
    return load(path, environ or {})


def config_errors(folder: Path, text: str, environ: Mapping[str, str] | None = None) -> list[str]:
    """Give the faults found in *text*, without the folder's name before them."""
    with pytest.raises(ConfigurationError) as caught:
        load_text(folder, text, environ)
    return [fault.removeprefix(f"{folder}/") for fault in caught.value.faults]


def config_error(folder: Path, text: str, environ: Mapping[str, str] | None = None) -> str:
    """Give the one fault found in *text*."""
    (fault,) = config_errors(folder, text, environ)
    return fault


def load_route(folder: Path, text: str, environ: Mapping[str, str] | None = None) -> RouteSettings:
    """Load one route that goes to a webhook and has *text* beside."""
    (route,) = load_text(folder, route_text(text), environ).settings.routes
    return route


def route_text(text: str) -> str:
    """Write a route that goes to a webhook; what begins on line 4 is *text*."""
    return f'[[routes]]\nname = "a"\n{WEBHOOK}{text}'
