"""Reads the account's ledgers and packs: what Kling charged for which task, and what is left.

Kling documents no schema. The shapes here were seen in a client's notes: amounts are numbers or text, times are
milliseconds as text, and ``/account/costs`` wraps its answer twice.
"""

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any, Protocol

from receiver.domain.bill import LedgerCharge, Pack
from receiver.domain.clock import Clock, micros
from receiver.domain.errors import KlingError, KlingRefusal, KlingUncertain, MalformedBody, UnknownResource
from receiver.domain.model import Json
from receiver.kling import parser_thread, strict_json
from receiver.kling.costs import UNITS, parse_decimal

_UNITS_LEDGER, _CASH_LEDGER = "/account/billing/package", "/account/billing/balance"
_PAGE_SIZE = 500
_MAX_PAGES = 400
_MAX_TEXT = 200
_PAUSE = timedelta(seconds=1)  # Kling permits one request a second for packs; the ledgers get the same


class AccountApi(Protocol):
    """Calls the paths of Kling's account API."""

    async def call(self, method: str, path: str, content: bytes = b"") -> bytes:
        """Return the body of an answer, or raise the error that it means."""
        ...


class LedgerMissing(KlingError):
    """The configured address has no ledgers, as most gateways have none."""

    code = "ledger_missing"


class Ledgers:
    """The account's ledgers at Kling. Reads are paced, and bounded in number."""

    def __init__(self, api: AccountApi, *, clock: Clock) -> None:
        self._api = api
        self._clock = clock

    async def charges(self, since: datetime, until: datetime) -> Sequence[LedgerCharge]:
        """Return the charges of both ledgers from *since* until before *until*. Raises KlingError."""
        found: list[LedgerCharge] = []
        for path in (_UNITS_LEDGER, _CASH_LEDGER):
            found += await self._ledger(path, since, until)
        return [charge for charge in found if since <= charge.at < until]

    async def packs(self) -> Sequence[Pack]:
        """Return the account's packs. Raises KlingError."""
        now = self._clock.now()
        period = f"start_time={_millis(now - timedelta(days=1))}&end_time={_millis(now)}"
        answer = await self._call("GET", f"/account/costs?{period}")
        inner = _object(answer.get("data"))
        packs = inner.get("resource_pack_subscribe_infos") or _object(inner.get("data")).get(
            "resource_pack_subscribe_infos"
        )
        return [pack for pack in map(_pack, _objects(packs)) if pack is not None]

    async def _ledger(self, path: str, since: datetime, until: datetime) -> Sequence[LedgerCharge]:
        found: list[LedgerCharge] = []
        request: Json = {"start_time": _millis(since), "end_time": _millis(until), "limit": _PAGE_SIZE}
        for page in range(_MAX_PAGES):
            if page:
                await self._clock.wait(asyncio.Event(), until=self._clock.now() + _PAUSE)
            data = _object((await self._call("POST", path, request)).get("data"))
            detail = _object(data.get("result")).get("detail") or data.get("detail")
            found += _charges(_objects(detail), is_cash=path == _CASH_LEDGER)
            cursor = _text(data.get("next_cursor"))
            if not data.get("has_more") or not cursor or cursor == request.get("cursor"):
                return found
            request = {"cursor": cursor, "limit": _PAGE_SIZE}
        raise KlingUncertain(
            f"Kling's ledger has more than {_MAX_PAGES * _PAGE_SIZE:,} entries in this period.",
            remedy="Check a shorter period: `--from` and `--to`.",
        )

    async def _call(self, method: str, path: str, request: Json | None = None) -> Json:
        content = b"" if request is None else json.dumps(request).encode()
        try:
            body = await self._api.call(method, path, content)
            return await parser_thread.run(len(body), _parse, body)
        except MalformedBody as exc:
            raise KlingUncertain(f"Kling's ledger cannot be read: {exc.message}") from exc
        except KlingRefusal as exc:
            if isinstance(exc, UnknownResource) or exc.status == 404:  # noqa: PLR2004 - HTTP's "not found"
                raise LedgerMissing(
                    "The address in `[kling] base_url` has no ledgers.",
                    remedy="Only Kling's own API has them. Turn off `[costs] reconcile` and `low` behind a gateway.",
                ) from exc
            raise


def _parse(body: bytes) -> Json:
    strict_json.parse(body)  # checks the form and the limits
    return strict_json.parse_with_floats(body, parse_decimal)


def _charges(entries: Iterator[Json], *, is_cash: bool) -> Iterator[LedgerCharge]:
    for entry in entries:
        kling_id, amount, at = (
            _text(entry.get("task_id")),
            _decimal(entry.get("deduction_amount")),
            _moment(entry.get("deduction_time")),
        )
        if not kling_id or amount is None or at is None:
            continue
        currency = _text(entry.get("currency")).lower() or "cash"
        yield LedgerCharge(
            kling_id=kling_id,
            at=at,
            unit=currency if is_cash else UNITS,
            amount=amount,
            product=_text(entry.get("product_function")),
            model=_text(entry.get("model_name")),
            api_key_name=_text(entry.get("api_key_name")),
        )


def _millis(at: datetime) -> int:
    return micros(at) // 1000


def _pack(raw: Json) -> Pack | None:
    total, left = _decimal(raw.get("total_quantity")), _decimal(raw.get("remaining_quantity"))
    name = _text(raw.get("resource_pack_name"))
    if total is None or left is None:
        return None
    return Pack(
        id=_text(raw.get("resource_pack_id")) or name,
        name=name,
        status=_text(raw.get("status")),
        total=total,
        left=left,
        expires_at=_moment(raw.get("invalid_time")),
    )


def _moment(value: object) -> datetime | None:
    milliseconds = _decimal(value)
    if milliseconds is None or not 0 < milliseconds < 10**14:
        return None
    return datetime.fromtimestamp(float(milliseconds) / 1000, UTC)


def _decimal(value: object) -> Decimal | None:
    if isinstance(value, bool) or not isinstance(value, int | str | Decimal):
        return None
    try:
        amount = Decimal(value)
    except InvalidOperation:
        return None
    return amount if amount.is_finite() and abs(amount.adjusted()) <= 30 else None  # noqa: PLR2004 - digits


def _text(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        return ""
    text = str(value)[:_MAX_TEXT]
    return text if text.isprintable() else ""


def _object(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _objects(value: object) -> Iterator[Json]:
    yield from (entry for entry in value if isinstance(entry, dict)) if isinstance(value, list) else ()
