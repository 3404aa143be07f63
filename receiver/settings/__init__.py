"""config.toml, the environment and secrets as frozen values; every error names file, line and key.

``finder`` finds the file, ``loader`` loads it, and ``client`` loads only what a client needs.
``toml_document`` keeps line numbers, ``environment`` applies overrides.
``sections``, ``routes`` and ``storage`` define the keys; ``fields`` and ``introspection`` serve these definitions.
``values``, ``addresses``, ``secrets`` and ``conditions`` parse single values; ``paths`` checks a path.
``diagnostics`` writes errors, ``warnings`` finds likely mistakes, and ``export`` lists the effective settings.
"""

from receiver.settings.addresses import Address
from receiver.settings.client import ClientSettings, load_client
from receiver.settings.export import EffectiveSetting, schema, secrets_in
from receiver.settings.finder import find, skipped_file_warning
from receiver.settings.loader import Loaded, effective_settings, load
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
    "ClientSettings",
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
    "load_client",
    "schema",
    "secrets_in",
    "skipped_file_warning",
]
