"""config.toml, the environment and secrets as frozen values; every error names file, line and key.

``config_file`` finds the file, ``loader`` loads it, and ``client`` loads only what a client needs.
``toml_document`` keeps line numbers, ``environment`` applies overrides by ``variables``.
``sections``, ``routes``, ``notify`` and ``storage`` define the keys; ``fields`` and ``introspection`` serve them.
``values``, ``addresses``, ``secrets``, ``store_url``, ``dialect`` and ``conditions`` parse single values; ``paths``
checks a path. ``diagnostics`` writes errors with the places in ``value_sources``, ``warnings`` finds likely mistakes,
and ``export`` lists the effective settings. ``changes`` compares two configurations.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from receiver.settings.addresses import Address
    from receiver.settings.changes import Changes, SettingChange, compare, merge_reloadable
    from receiver.settings.client import ClientSettings, load_client
    from receiver.settings.config_file import find, skipped_file_warning
    from receiver.settings.dialect import Dialect
    from receiver.settings.export import EffectiveSetting, schema, secrets_in
    from receiver.settings.loader import Loaded, effective_settings, load
    from receiver.settings.notify import NotifySettings
    from receiver.settings.routes import RouteSettings, ScriptSettings, WebhookSettings
    from receiver.settings.sections import (
        AdminSettings,
        AlertSettings,
        ArchiveSettings,
        CallbackSettings,
        CostSettings,
        GatewaySettings,
        KlingSettings,
        LogSettings,
        NetworkSettings,
        PollSettings,
        PublicSettings,
        RetentionSettings,
        Settings,
        StoreSettings,
        Verify,
    )
    from receiver.settings.slots import SlotSettings
    from receiver.settings.values import Rate, Size

__all__ = [
    "Address",
    "AdminSettings",
    "AlertSettings",
    "ArchiveSettings",
    "CallbackSettings",
    "Changes",
    "ClientSettings",
    "CostSettings",
    "Dialect",
    "EffectiveSetting",
    "GatewaySettings",
    "KlingSettings",
    "Loaded",
    "LogSettings",
    "NetworkSettings",
    "NotifySettings",
    "PollSettings",
    "PublicSettings",
    "Rate",
    "RetentionSettings",
    "RouteSettings",
    "ScriptSettings",
    "SettingChange",
    "Settings",
    "Size",
    "SlotSettings",
    "StoreSettings",
    "Verify",
    "WebhookSettings",
    "compare",
    "effective_settings",
    "find",
    "load",
    "load_client",
    "merge_reloadable",
    "schema",
    "secrets_in",
    "skipped_file_warning",
]

_NAMES = {
    "addresses": "Address",
    "changes": "Changes SettingChange compare merge_reloadable",
    "client": "ClientSettings load_client",
    "dialect": "Dialect",
    "export": "EffectiveSetting schema secrets_in",
    "config_file": "find skipped_file_warning",
    "loader": "Loaded effective_settings load",
    "notify": "NotifySettings",
    "routes": "RouteSettings ScriptSettings WebhookSettings",
    "sections": "AdminSettings AlertSettings ArchiveSettings CallbackSettings CostSettings GatewaySettings "
    "KlingSettings LogSettings NetworkSettings PollSettings PublicSettings RetentionSettings Settings StoreSettings "
    "Verify",
    "slots": "SlotSettings",
    "values": "Rate Size",
}
_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names.split()}

if not TYPE_CHECKING:  # a type checker reads the imports above, so it still reports unknown names

    def __getattr__(name: str) -> object:
        """Import a name's module on first use: a client needs a few of them only, and starts faster."""
        if name in _MODULE_OF:
            return getattr(import_module(f"receiver.settings.{_MODULE_OF[name]}"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
