"""config.toml, the environment and secrets, as frozen values; every fault named by file, line and key.

Read on in the order of the work: ``loading`` finds and loads, ``document`` knows the lines of the file,
``overrides`` the environment, ``sections`` and ``routes`` what may stand where; ``words``, ``addresses``,
``references`` and ``conditions`` read single values, ``places`` looks where a path leads; ``faults`` and ``doubts``
say what is wrong and what seems so; ``showing`` shows what holds.
"""

from receiver.settings.addresses import Address
from receiver.settings.export import EffectiveSetting, schema
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
]
