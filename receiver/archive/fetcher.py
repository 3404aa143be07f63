"""Brings one result to its place in a folder, or says why it did not come."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from http import HTTPStatus
from pathlib import Path

from receiver.archive.partial_file import Berth, free_bytes
from receiver.archive.policy import Missing
from receiver.domain.errors import DialRefused, NoAnswer, NotKept, NotSent
from receiver.domain.model import Asset
from receiver.net.download import Answered, Arrived, Pace, TooLarge, download
from receiver.net.http_client import Outbound

LARGEST = 2 * 1024**3

_TRY_AGAIN = frozenset({408, 416, 425, 429})


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What one download may take: bytes, time all in all, and how little may come of it."""

    largest: int = LARGEST
    total: timedelta = timedelta(minutes=30)
    pace: Pace = field(default_factory=Pace)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One result of an event: its place among them, the URL it is known by, and the one it is to be had at."""

    number: int
    url: str
    at: str


class Fetcher:
    """Downloads one file at a time, to go on with what is there of it."""

    def __init__(
        self, outbound: Outbound, *, bounds: Bounds | None = None, free: Callable[[Path], int] = free_bytes
    ) -> None:
        self._outbound = outbound
        self._bounds = bounds or Bounds()
        self._free = free

    async def fetch(self, folder: Path, result: Result) -> Asset | Missing:
        """Bring a result to *folder*, under a name of ours, or say why it is missing."""
        berth = Berth(folder, result.number, free=self._free)
        try:
            return await self._land(berth, result)
        except (NotSent, NoAnswer, NotKept) as exc:
            return _missing(result, str(exc))
        except DialRefused as exc:
            return _missing(result, str(exc), is_dead=True)
        finally:
            berth.leave()

    async def _land(self, berth: Berth, result: Result) -> Asset | Missing:
        whole = await berth.open()
        if whole is not None:
            return await berth.adopt(whole, result.url)
        bounds = self._bounds
        try:
            ending = await download(
                self._outbound, result.at, to=berth, total=bounds.total, limit=bounds.largest, pace=bounds.pace
            )
        except (NotSent, NoAnswer):
            await berth.keep()
            raise
        match ending:
            case Arrived():
                return await berth.finish(result.url)
            case Answered(peer=peer, status=status):
                if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                    await berth.clear()  # it is a part of something else
                is_refused = status // 100 == 4 and status not in _TRY_AGAIN  # noqa: PLR2004  # 4xx is a client's fault
                return _missing(result, f"{peer} answered {status}.", is_dead=is_refused, is_refused=is_refused)
            case TooLarge(peer=peer):
                await berth.clear()
                return _missing(result, f"{peer} has a file of more than {bounds.largest} bytes there.", is_dead=True)


def _missing(result: Result, reason: str, *, is_dead: bool = False, is_refused: bool = False) -> Missing:
    return Missing(number=result.number, url=result.url, reason=reason, is_dead=is_dead, is_refused=is_refused)
