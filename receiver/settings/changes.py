"""Compares two configurations: what a reload changes, and what needs a restart. Pure."""

from collections.abc import Mapping, Sequence

import msgspec
from pydantic import BaseModel

from receiver.settings.export import masked, walk_values
from receiver.settings.sections import Settings
from receiver.settings.toml_document import Location, dotted

RELOADABLE = (
    "admin.token",
    "admin.read_token",
    "admin.tokens",
    "admin.hosts",
    "callbacks",
    "gateway.callbacks",
    "gateway.secret",
    "kling.api_key",
    "kling.access_key",
    "kling.secret_key",
    "kling.slots",
    "log",
    "poll",
    "retention",
    "routes",
)
"""The settings that can change while the service runs. All others, also new ones, need a restart."""


class SettingChange(msgspec.Struct, frozen=True, kw_only=True):
    """A changed setting. The values are None if they may not be shown; a missing value is an empty string."""

    key: str
    before: object
    after: object
    needs_restart: bool


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """What differs between the running configuration and another one. Routes are compared by name."""

    settings: Sequence[SettingChange]
    routes_added: Sequence[str]
    routes_removed: Sequence[str]
    routes_changed: Sequence[str]


def merge_reloadable(running: Settings, loaded: Settings) -> Settings:
    """Return *running* with the settings of *loaded* that can change while the service runs."""
    sections: dict[str, object] = {}
    for name in Settings.model_fields:
        section, new = getattr(running, name), getattr(loaded, name)
        if name in RELOADABLE:
            sections[name] = new
        elif isinstance(section, BaseModel):
            keys = [key for key in type(section).model_fields if f"{name}.{key}" in RELOADABLE]
            sections[name] = section.model_copy(update={key: getattr(new, key) for key in keys})
    return running.model_copy(update=sections)


def compare(running: Settings, loaded: Settings) -> Changes:
    """Return what differs. The settings of a route that exists only once are not listed one by one."""
    before, after = _by_key(running), _by_key(loaded)
    old, new = ([route.name for route in settings.routes] for settings in (running, loaded))
    ends = tuple(f"routes.{name}." for name in {*old} ^ {*new})
    keys = [key for key in {**before, **after} if not key.startswith(ends) and before.get(key) != after.get(key)]
    keys = [key for key in keys if key != "routes"]  # the empty list, of settings without a route
    changes = [_change(key, before.get(key), after.get(key)) for key in keys]
    return Changes(
        settings=changes,
        routes_added=[name for name in new if name not in old],
        routes_removed=[name for name in old if name not in new],
        routes_changed=[name for name in new if any(change.key.startswith(f"routes.{name}.") for change in changes)],
    )


class _Value(msgspec.Struct, frozen=True):
    """A value, and how it may be shown."""

    real: object
    shown: object


def _by_key(settings: Settings) -> Mapping[str, _Value]:
    """Return the values by key, such as ``routes.publish.webhook.url``: a route is known by its name."""
    return {
        dotted(_named(location, settings)): _Value(value, masked(location, value))
        for location, value in walk_values(settings)
    }


def _named(location: Location, settings: Settings) -> Location:
    match location:
        case ("routes", int() as number, *rest):
            return ("routes", settings.routes[number].name, *rest)
        case _:
            return location


def _change(key: str, before: _Value | None, after: _Value | None) -> SettingChange:
    shown = ["" if value is None else value.shown for value in (before, after)]
    if shown[0] == shown[1]:  # only what is masked differs
        shown = [None, None]
    return SettingChange(
        key=key,
        before=shown[0],
        after=shown[1],
        needs_restart=not any(key == each or key.startswith(f"{each}.") for each in RELOADABLE),
    )
