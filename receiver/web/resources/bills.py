"""The comparison with Kling's ledgers over HTTP. It calls Kling, and may take minutes for a long period."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import Response

from receiver.domain.api_schema import costs
from receiver.domain.bill import BillCheck, OwnCharge, Pack, UnknownCharge
from receiver.domain.clock import EPOCH, Clock, iso
from receiver.web import serializers
from receiver.web.api_requests import BillCheckRequest, NoQuery
from receiver.web.params import read_json_body, read_query
from receiver.web.serializers import charges_json
from receiver.web.server.problems import bad_request

MAX_LISTED = 1000
"""Entries of each list in one answer."""

_DEFAULT_PERIOD = timedelta(days=30)
_MAX_PERIOD = timedelta(days=366)


class BillService(Protocol):
    """Compares Kling's ledgers with the stored costs."""

    async def check(self, since: datetime, until: datetime) -> BillCheck:
        """Compare a period."""
        ...

    async def packs(self) -> Sequence[Pack]:
        """Return the account's packs."""
        ...


class BillApi:
    """Answers ``/api/costs/check``."""

    def __init__(self, bill: BillService, *, clock: Clock) -> None:
        self._bill = bill
        self._clock = clock

    async def check(self, request: Request) -> Response:
        """Compare Kling's ledgers with the stored costs; the default period is the last 30 days."""
        read_query(request, NoQuery)
        body = await read_json_body(request, BillCheckRequest)
        until = body.to or self._clock.now()
        since = max(body.from_ or max(until, EPOCH) - _DEFAULT_PERIOD, EPOCH)
        if not timedelta() < until - since <= _MAX_PERIOD:
            raise bad_request(
                f"'from' must be before 'to', by at most {_MAX_PERIOD.days} days. Check a longer period in parts."
            )
        checked = await self._bill.check(since, until)
        return serializers.json_response(_report(checked, await self._bill.packs()))


def _report(checked: BillCheck, packs: Sequence[Pack]) -> costs.BillReport:
    found = (checked.unknown, checked.unbilled, checked.different)
    return costs.BillReport(
        from_=iso(checked.since),
        to=iso(checked.until),
        agrees=checked.agrees,
        billed=charges_json(checked.total),
        matched=checked.matched,
        corrected=len(checked.corrections),
        unknown=[_unknown(each) for each in checked.unknown[:MAX_LISTED]],
        unbilled=[costs.OwnCharge(**_own(each)) for each in checked.unbilled[:MAX_LISTED]],
        different=[
            costs.DifferentCharge(**_own(each.own), billed=charges_json(each.charged))
            for each in checked.different[:MAX_LISTED]
        ],
        left_out=sum(max(0, len(each) - MAX_LISTED) for each in found),
        packs=[_pack(pack) for pack in packs],
    )


def _own(task: OwnCharge) -> dict[str, Any]:
    return {
        "task_id": task.task_id,
        "kling_id": task.kling_id,
        "endpoint": task.endpoint,
        "ended_at": iso(task.ended_at),
        "recorded": None if task.charges is None else charges_json(task.charges),
    }


def _unknown(charge: UnknownCharge) -> costs.UnknownCharge:
    return costs.UnknownCharge(
        kling_id=charge.kling_id,
        charged_at=iso(charge.charged_at),
        created_at=None if charge.created_at is None else iso(charge.created_at),
        charges=charges_json(charge.charges),
        product=charge.product,
        model=charge.model,
        api_key_name=charge.api_key_name,
    )


def _pack(pack: Pack) -> costs.Pack:
    return costs.Pack(
        id=pack.id,
        name=pack.name,
        status=pack.status,
        total=format(pack.total, "f"),
        left=format(pack.left, "f"),
        expires_at=None if pack.expires_at is None else iso(pack.expires_at),
    )
