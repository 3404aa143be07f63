"""Kling's ledgers and packs, and what differs between a ledger and our own record of costs. Amounts are exact."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal

import msgspec


class LedgerCharge(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of Kling's ledgers: a deduction from a pack in ``units``, or from the balance in a currency.

    A refund has a negative ``amount``.
    """

    kling_id: str
    at: datetime
    unit: str
    amount: Decimal
    product: str
    model: str
    api_key_name: str


class Pack(msgspec.Struct, frozen=True, kw_only=True):
    """A prepaid pack of the account, and what is left of it. Kling's figures may be 12 hours late."""

    id: str
    name: str
    status: str
    total: Decimal
    left: Decimal
    expires_at: datetime | None

    @property
    def share_left(self) -> Decimal:
        """The share that is left, from 0 to 1."""
        return self.left / self.total if self.total else Decimal()


class OwnCharge(msgspec.Struct, frozen=True, kw_only=True):
    """A task of ours as far as a bill needs it. ``charges`` is None if Kling reported no cost."""

    task_id: str
    kling_id: str
    endpoint: str
    ended_at: datetime
    succeeded: bool
    charges: Mapping[str, Decimal] | None


class UnknownCharge(msgspec.Struct, frozen=True, kw_only=True):
    """What the ledgers charge for a task that is not in the store. ``created_at`` is a hint from Kling's id."""

    kling_id: str
    charged_at: datetime
    created_at: datetime | None
    charges: Mapping[str, Decimal]
    product: str
    model: str
    api_key_name: str


class DifferentCharge(msgspec.Struct, frozen=True, kw_only=True):
    """A task whose cost in the store is not what the ledgers charge."""

    own: OwnCharge
    charged: Mapping[str, Decimal]


class UnitCorrection(msgspec.Struct, frozen=True, kw_only=True):
    """A task whose amount agrees while the ledgers name another unit. The ledgers are right."""

    task_id: str
    charges: Mapping[str, Decimal]


class BillCheck(msgspec.Struct, frozen=True, kw_only=True):
    """The result of comparing Kling's ledgers with the stored costs, for a period."""

    since: datetime
    until: datetime
    total: Mapping[str, Decimal]
    matched: int
    unknown: Sequence[UnknownCharge]
    unbilled: Sequence[OwnCharge]
    different: Sequence[DifferentCharge]
    corrections: Sequence[UnitCorrection]

    @property
    def agrees(self) -> bool:
        """Whether nothing differs. A corrected unit is not a difference."""
        return not (self.unknown or self.unbilled or self.different)
