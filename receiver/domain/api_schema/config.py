"""The responses of the admin API about the configuration."""

from collections.abc import Sequence
from typing import Annotated

from receiver.domain.api_schema.json_object import JsonObject, SchemaOf, definition

SettingValue = Annotated[object, SchemaOf(bool | float | str | list[bool | float | str] | None)]


@definition
class ChangedSetting(JsonObject):
    """A setting that differs. Values that may not be shown are null."""

    key: str
    """Such as `routes.publish.webhook.url`: routes by name."""
    before: SettingValue
    after: SettingValue


@definition
class RemovedRoute(JsonObject):
    """A route that is no longer configured."""

    name: str
    pending: int
    """Its pending deliveries. They are kept, and continue when a route with this name is configured again."""


@definition
class ConfigChanges(JsonObject):
    """What differs between the running configuration and the file."""

    applied: bool
    """Whether the changes have been applied."""
    path: str | None
    """The file; null if there is none."""
    changed: Sequence[ChangedSetting]
    """What a reload changes, apart from added and removed routes."""
    needs_restart: Sequence[ChangedSetting]
    """What stays as it is until a restart."""
    routes_added: Sequence[str]
    routes_removed: Sequence[RemovedRoute]
    routes_changed: Sequence[str]
    warnings: Sequence[str]
    """Settings that are valid and probably mistakes."""
