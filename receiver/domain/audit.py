"""The audit log's entry."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """An operator's action: ``verb`` (such as ``route.held``), the ``subject`` it changed, and the ``reason``."""

    at: datetime
    actor: str
    verb: str
    subject: str
    reason: str = ""
