"""The audit log's entry."""

from datetime import datetime

import msgspec


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True):
    """An operator's action: ``verb`` (such as ``route.held``), the ``subject`` it changed, and the ``reason``."""

    at: datetime
    actor: str
    verb: str
    subject: str
    reason: str = ""
