"""The databases of a copy by their URLs: one of them is the source, the other one the target."""

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from receiver.domain.errors import InvalidRequest
from receiver.store.copying import CopiedTable, CopySource, CopyTarget, Report, copy_store
from receiver.store.sqlite.copying import SqliteCopySource, SqliteCopyTarget

_SQLITE = "sqlite:"
_POSTGRES = ("postgresql://", "postgres://")
_NO_PASSWORDS: Mapping[str, str] = {}


async def copy_between(
    source: str, target: str, report: Report, *, passwords: Mapping[str, str] = _NO_PASSWORDS
) -> Sequence[CopiedTable]:
    """Copy the store at the URL *source* into the new database at *target*, and compare them. Raises ReceiverError.

    *passwords* are known ones by URL; without one, the driver looks at PGPASSWORD and ~/.pgpass.
    """
    _check(source)
    _check(target)
    async with AsyncExitStack() as stack:
        opened = await _open_source(stack, source, passwords.get(source))
        new = await _open_target(stack, target, passwords.get(target), origin=opened.label)
        return await copy_store(opened, new, report)


def _check(url: str) -> None:
    """Refuse what is no URL of a store, or needs a missing extra."""
    if url.startswith(_SQLITE) and url != _SQLITE:
        return
    if not url.startswith(_POSTGRES):
        raise InvalidRequest(
            f"{url!r} is not the URL of a store.",
            remedy="Write 'sqlite:/var/lib/receiver.db' or 'postgresql://user@host/database'.",
        )
    if urlsplit(url).password is not None:
        raise InvalidRequest(
            "The URL has a password, which others can see in the list of processes.",
            remedy="Leave it out, and set PGPASSWORD, or write it to ~/.pgpass or [store] password.",
        )
    if find_spec("asyncpg") is None:
        raise InvalidRequest(
            "PostgreSQL needs the extra `postgres`, which is not installed.",
            remedy="In a checkout: make postgres, else: pip install 'kling-receiver[postgres]'.",
        )


async def _open_source(stack: AsyncExitStack, url: str, password: str | None) -> CopySource:
    if url.startswith(_SQLITE):
        return stack.enter_context(SqliteCopySource.open(_path(url)))
    from receiver.store.postgres.copying import PostgresCopySource  # noqa: PLC0415 -- needs an extra
    from receiver.store.postgres.database import Address  # noqa: PLC0415 -- needs an extra

    return await stack.enter_async_context(PostgresCopySource.open(Address(url=url, password=password)))


async def _open_target(stack: AsyncExitStack, url: str, password: str | None, *, origin: str) -> CopyTarget:
    if url.startswith(_SQLITE):
        return stack.enter_context(SqliteCopyTarget.open_new(_path(url), origin=origin))
    from receiver.store.postgres.copying import PostgresCopyTarget  # noqa: PLC0415 -- needs an extra
    from receiver.store.postgres.database import Address  # noqa: PLC0415 -- needs an extra

    return await stack.enter_async_context(
        PostgresCopyTarget.open_new(Address(url=url, password=password), origin=origin)
    )


def _path(url: str) -> Path:
    return Path(url.removeprefix(_SQLITE)).absolute()
