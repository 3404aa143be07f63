"""Download one result into its folder, or return why it is missing."""

from collections.abc import Callable
from datetime import timedelta
from http import HTTPStatus
from pathlib import Path

import msgspec

from receiver.archive.partial_file import NotAFile, PartialFile
from receiver.archive.retry import MissingResult
from receiver.domain.errors import AddressBlocked, FileNotStored, NoResponse, RequestNotSent
from receiver.domain.model import Asset
from receiver.net.download import Completed, ErrorStatus, MinimumRate, TooLarge, download
from receiver.net.http_client import HttpClient
from receiver.store.disk import free_bytes

MAX_FILE_BYTES = 2 * 1024**3

_RETRYABLE = frozenset({408, 416, 425, 429})


class DownloadLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of one download: size, total time and minimum rate."""

    max_bytes: int = MAX_FILE_BYTES
    time_limit: timedelta = timedelta(minutes=30)
    minimum_rate: MinimumRate = msgspec.field(default_factory=MinimumRate)


class ResultFile(msgspec.Struct, frozen=True, kw_only=True):
    """One result of an event: its number, its URL in the event, and the URL to download it from."""

    number: int
    url: str
    fetch_url: str


class Fetcher:
    """Downloads a file, resuming from its partial file."""

    def __init__(
        self,
        http_client: HttpClient,
        *,
        limits: DownloadLimits | None = None,
        free_space: Callable[[Path], int] = free_bytes,
    ) -> None:
        self._http_client = http_client
        self._limits = limits or DownloadLimits()
        self._free_space = free_space

    async def fetch(self, folder: Path, result: ResultFile) -> Asset | MissingResult:
        """Download a result into *folder*. Return the asset, or the missing result with its reason."""
        partial = PartialFile(folder, result.number, free_space=self._free_space)
        try:
            return await self._download(partial, result)
        except NotAFile as exc:
            return _missing(result, str(exc), url_refused=True)
        except (RequestNotSent, NoResponse, FileNotStored) as exc:
            return _missing(result, str(exc))
        except AddressBlocked as exc:
            return _missing(result, str(exc), is_permanent=True)
        finally:
            partial.close()

    async def _download(self, partial: PartialFile, result: ResultFile) -> Asset | MissingResult:
        complete = await partial.open()
        if complete is not None:
            return await partial.describe(complete, result.url)
        limits = self._limits
        try:
            outcome = await download(
                self._http_client,
                result.fetch_url,
                target=partial,
                time_limit=limits.time_limit,
                max_bytes=limits.max_bytes,
                minimum_rate=limits.minimum_rate,
            )
        except (RequestNotSent, NoResponse):
            await partial.sync()
            raise
        match outcome:
            case Completed():
                return await partial.finish(result.url)
            case ErrorStatus(peer=peer, status=status):
                if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                    await partial.discard()  # the partial file belongs to another file
                is_refused = status // 100 == 4 and status not in _RETRYABLE  # noqa: PLR2004  # 4xx: a client error
                return _missing(result, f"{peer} answered {status}.", is_permanent=is_refused, url_refused=is_refused)
            case TooLarge(peer=peer):
                await partial.discard()
                return _missing(
                    result, f"The file at {peer} is larger than {limits.max_bytes} bytes.", is_permanent=True
                )


def _missing(
    result: ResultFile, reason: str, *, is_permanent: bool = False, url_refused: bool = False
) -> MissingResult:
    return MissingResult(
        number=result.number, url=result.url, reason=reason, is_permanent=is_permanent, url_refused=url_refused
    )
