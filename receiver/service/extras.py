"""Which of the package's extras are installed. The program works without them."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec

_MODULES: Mapping[str, Sequence[str]] = {
    "mcp": ("mcp",),
    "notify": ("apprise",),
    "otel": ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http"),
    "postgres": ("asyncpg",),
    "previews": ("PIL",),
    "storage": ("aiobotocore",),
}


def is_installed(extra: str) -> bool:
    """Return whether the packages of an extra are there."""
    try:
        return all(find_spec(name) is not None for name in _MODULES[extra])
    except ModuleNotFoundError:  # not even the package above
        return False


def installed_extras() -> Sequence[str]:
    """Return the names of the installed extras."""
    return [extra for extra in _MODULES if is_installed(extra)]


def how_to_install(extra: str) -> str:
    """Return the commands that install an extra."""
    return f"In a checkout: make {extra}, else: pip install 'kling-receiver[{extra}]'."
