"""config.toml, the environment and secrets as frozen values; every error names file, line and key.

``loader`` finds and loads the file. ``toml_document`` keeps its line numbers, ``environment`` applies overrides.
``sections``, ``routes`` and ``storage`` define the keys; ``fields`` and ``introspection`` serve these definitions.
``values``, ``addresses``, ``secrets`` and ``conditions`` parse single values; ``paths`` checks a path.
``diagnostics`` writes errors, ``warnings`` finds likely mistakes, and ``export`` lists the effective settings.
"""

from receiver.settings.addresses import Address
from receiver.settings.export import EffectiveSetting, schema, secrets_in
from receiver.settings.loader import Loaded, effective_settings, find, load
from receiver.settings.routes import RouteSettings, ScriptSettings, WebhookSettings
from receiver.settings.sections import (
    AdminSettings,
    ArchiveSettings,
    CallbackSettings,
    Dialect,
    GatewaySettings,
    KlingSettings,
    NetworkSettings,
    PollSettings,
    PublicSettings,
    RetentionSettings,
    Settings,
    SlotSettings,
    StoreSettings,
    Verify,
)
from receiver.settings.values import Rate, Size

__all__ = [
    "Address",
    "AdminSettings",
    "ArchiveSettings",
    "CallbackSettings",
    "Dialect",
    "EffectiveSetting",
    "GatewaySettings",
    "KlingSettings",
    "Loaded",
    "NetworkSettings",
    "PollSettings",
    "PublicSettings",
    "Rate",
    "RetentionSettings",
    "RouteSettings",
    "ScriptSettings",
    "Settings",
    "Size",
    "SlotSettings",
    "StoreSettings",
    "Verify",
    "WebhookSettings",
    "effective_settings",
    "find",
    "load",
    "schema",
    "secrets_in",
]
