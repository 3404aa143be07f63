"""The simulated account's ledgers: a charge for each finished task, and one pack per kind of task.

A prepaid account pays in units from its packs, a postpaid one in money from its balance.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from receiver.domain.model import Json
from receiver.kling.simulator.endpoints import ApiError
from receiver.kling.simulator.options import Options
from receiver.kling.simulator.tasks import Task, millis

UNITS, CASH = "package", "balance"

_PACKS = ("video", "image", "audio")
_PACK_DAYS = timedelta(days=90)
_PRICE = Decimal("0.14")  # of one unit, in dollars
_MAX_PAGE_SIZE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class _Charge:
    task: Task
    at: datetime
    amount: Decimal
    left: Decimal


class Ledgers:
    """What the account was charged. The newest charges are kept, as many as tasks."""

    def __init__(self, options: Options, *, opened_at: datetime) -> None:
        self._options = options
        self._opened_at = opened_at
        self._charges: deque[_Charge] = deque(maxlen=options.keep)
        self._used = dict.fromkeys(_PACKS, Decimal())

    def price(self, weight: int) -> Decimal:
        """Return the price of a task that uses so many slots."""
        return weight * (_PRICE if self._options.postpaid else Decimal(1))

    def charge(self, task: Task, *, at: datetime, factor: int = 1) -> None:
        """Charge a finished task, *factor* times its price."""
        pack = task.endpoint.pack or "audio"
        amount = task.price * factor
        self._used[pack] += amount
        left = Decimal(self._options.pack_units) - self._used[pack]
        self._charges.append(_Charge(task=task, at=at, amount=amount, left=left))

    def page(self, ledger: str, request: Json) -> Json:
        """Return a page of a ledger, oldest first; a cursor overrides everything else."""
        limit = request.get("limit", 30)
        if not isinstance(limit, int) or not 1 <= limit <= _MAX_PAGE_SIZE:
            raise ApiError(1201, f"limit must be 1 to {_MAX_PAGE_SIZE}")
        start, since, until = self._read_position(request)
        entries = self._charges if (ledger == CASH) == self._options.postpaid else ()
        found = [each for each in entries if since <= millis(each.at) < until]
        page, following = found[start : start + limit], start + limit
        has_more = len(found) > following
        cursor = f"{following}.{since}.{until}" if has_more else ""
        detail = [self._entry(each) for each in page]
        return {"result": {"detail": detail}, "next_cursor": cursor, "has_more": has_more}

    def packs(self) -> Json:
        """Return the packs, in Kling's double envelope."""
        return {"code": 0, "msg": "success", "resource_pack_subscribe_infos": list(self._packs())}

    def _packs(self) -> Iterator[Json]:
        if self._options.postpaid:
            return
        for name in _PACKS:
            left = max(Decimal(), Decimal(self._options.pack_units) - self._used[name])
            yield {
                "resource_pack_name": f"{name} pack",
                "resource_pack_id": f"pack-{name}",
                "resource_pack_type": "decreasing_total",
                "total_quantity": self._options.pack_units,
                "remaining_quantity": float(left),
                "purchase_time": millis(self._opened_at),
                "effective_time": millis(self._opened_at),
                "invalid_time": millis(self._opened_at + _PACK_DAYS),
                "status": "online" if left else "runOut",
            }

    def _read_position(self, request: Json) -> tuple[int, int, int]:
        cursor = request.get("cursor")
        parts: Sequence[object] = str(cursor).split(".") if cursor else ()
        parts = parts or (0, request.get("start_time", 0), request.get("end_time", 10**14))
        try:
            start, since, until = (int(str(part)) for part in parts)
        except ValueError:
            raise ApiError(1201, "cursor, start_time or end_time is invalid") from None
        return start, since, until

    def _entry(self, charge: _Charge) -> Json:
        task, amount = charge.task, format(charge.amount, "f")
        entry: Json = {
            "task_id": task.id,
            "api_key_name": "default",
            "product_function": task.endpoint.path.rpartition("/")[2],
            "model_name": str(task.body.get("model_name") or ""),
            "deduction_time": str(millis(charge.at)),
            "deduction_amount": amount,
        }
        if self._options.postpaid:
            balance = {"list_price": amount, "currency": "USD", "cash_type": "balance"}
            return {**entry, **balance, "balance_after_deduction": format(charge.left, "f")}
        before = format(charge.left + charge.amount, "f")
        return {**entry, "unit_before_deduction": before, "unit_after_deduction": format(charge.left, "f")}
