"""Loads configurations from text, and returns their errors."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from receiver.domain.errors import ConfigurationError
from receiver.settings import Loaded, RouteSettings, load

SHIPPED = Path(__file__).parents[2] / "config.toml"
CANARY = "canary-0123456789-canary"
WITH_CANARIES = f"""
[admin]
token = "{CANARY}"
[kling]
access_key = "{CANARY}"
secret_key = "{CANARY}"
[callbacks]
signing_secrets = ["{CANARY}"]
[gateway]
secret = "{CANARY}"
[[routes]]
name = "a"
[routes.webhook]
url = "https://chat.example.com/hooks/{CANARY}"
secret = ["{CANARY}", "env:ROTATED"]
headers = {{ authorization = "Bearer {CANARY}" }}
[[routes]]
name = "b"
[routes.script]
command = ["/bin/true"]
env = {{ PASSWORD = "{CANARY}" }}
"""
WEBHOOK = 'webhook = { url = "https://app.example.com/hook" }\n'


def load_text(folder: Path, text: str, environ: Mapping[str, str] | None = None) -> Loaded:
    """Load *text* as the config.toml in *folder*."""
    path = folder / "config.toml"
    path.write_text(text)
    return load(path, environ or {})


def config_errors(folder: Path, text: str, environ: Mapping[str, str] | None = None) -> list[str]:
    """Return the errors in *text*, without the folder's name."""
    with pytest.raises(ConfigurationError) as caught:
        load_text(folder, text, environ)
    return [fault.removeprefix(f"{folder}/") for fault in caught.value.faults]


def config_error(folder: Path, text: str, environ: Mapping[str, str] | None = None) -> str:
    """Return the only error in *text*."""
    (fault,) = config_errors(folder, text, environ)
    return fault


def load_route(folder: Path, text: str, environ: Mapping[str, str] | None = None) -> RouteSettings:
    """Load one webhook route with *text* added."""
    (route,) = load_text(folder, route_text(text), environ).settings.routes
    return route


def route_text(text: str) -> str:
    """Return a webhook route; *text* starts on line 4."""
    return f'[[routes]]\nname = "a"\n{WEBHOOK}{text}'
