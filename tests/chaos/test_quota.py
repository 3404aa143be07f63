"""A used-up quota (EDQUOT) or limit on the size of files (EFBIG) is a full disk, not a broken one.

The service refuses, and resumes by itself. SQLite reports both as an I/O error.
"""

import asyncio
import contextlib
import resource
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
from chaos.strace import attach, requires_strace
from harness.factories import a_task
from harness.raw_http import http_request, wait_until_answered
from harness.running_service import Receiver, a_config, a_push_body, a_receiver, create_callback_url
from harness.sqlite_template import open_store

from receiver.domain.errors import StoreUnavailable
from receiver.store.sqlite import maintenance

CONFIG = a_config("http://127.0.0.1:9")
SMALL = 64 * 1024

pytestmark = requires_strace


@contextlib.asynccontextmanager
async def quota_used_up(receiver: Receiver) -> AsyncIterator[None]:
    """Make each write to a file fail with EDQUOT."""
    assert receiver.process is not None
    inject = ["-e", "trace=pwrite64", "-e", "inject=pwrite64:error=EDQUOT"]
    strace = await asyncio.to_thread(attach, receiver.process.pid, options=inject, log=receiver.folder / "strace")
    with strace:
        try:
            yield
        finally:
            strace.send_signal(signal.SIGTERM)


@contextlib.asynccontextmanager
async def files_at_their_limit(receiver: Receiver) -> AsyncIterator[None]:
    """Limit files to the size of the store's log, so that it cannot grow."""
    assert receiver.process is not None
    wal = receiver.folder / "var" / "receiver.db-wal"
    before = resource.prlimit(receiver.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(receiver.process.pid, resource.RLIMIT_FSIZE, (wal.stat().st_size, before[1]))
    try:
        yield
    finally:
        resource.prlimit(receiver.process.pid, resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("limit", [quota_used_up, files_at_their_limit], ids=["EDQUOT", "EFBIG"])
async def test_a_limit_that_is_used_up_is_answered_503_and_work_resumes(tmp_path: Path, limit: object) -> None:
    async with a_receiver(tmp_path, CONFIG) as receiver, receiver.client() as client:
        _, url = await create_callback_url(client)
        async with _entered(limit, receiver):
            refused = await http_request("POST", url, a_push_body("processing"))
            ready = await http_request("GET", f"{receiver.admin}/readyz")
            again = await http_request("POST", url, a_push_body("processing"))
        accepted = await http_request("POST", url, a_push_body("processing"))

        assert [refused.status, again.status, accepted.status] == [503, 503, 200]
        assert refused.headers["retry-after"] == "5"
        [check] = [check for check in ready.json()["checks"] if not check["ok"]]
        assert (ready.status, check["name"], "a quota or a limit" in check["reason"]) == (503, "store", True)
        assert (await http_request("GET", f"{receiver.admin}/readyz")).status == 200
        assert not receiver.log_entries("store.damaged")
        assert not (tmp_path / "var" / "receiver.db.suspect").exists()
        assert receiver.rows("SELECT count(*) FROM pushes") == [(1,)]
        assert await receiver.stop() == 0


def _entered(limit: object, receiver: Receiver) -> AbstractAsyncContextManager[None]:
    assert callable(limit)
    entered: AbstractAsyncContextManager[None] = limit(receiver)
    return entered


@contextlib.contextmanager
def small_files(size: int = SMALL) -> Iterator[None]:
    """Limit the files of this process and its new children."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def test_a_start_at_the_limit_refuses_requests_and_resumes_by_itself(tmp_path: Path) -> None:
    receiver = Receiver(tmp_path, CONFIG)
    with small_files():
        receiver.spawn()
    assert receiver.process is not None
    try:
        ready = await wait_until_answered("GET", f"{receiver.admin}/readyz")
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.prlimit(receiver.process.pid, resource.RLIMIT_FSIZE, before)
        await receiver.wait_until_ready()
        code = await receiver.stop()
    finally:
        receiver.kill()

    (said,) = receiver.log_entries("service.waiting_for_disk")
    assert "a quota or a limit on file sizes is used up" in said["reason"]
    assert (ready.status, code) == (503, 0)


async def test_a_backup_over_the_file_size_limit_does_not_break_the_store(tmp_path: Path) -> None:
    store = await open_store(tmp_path / "receiver.db")
    await store.tasks.add(a_task(), b"")
    await store.aclose()

    with small_files(), pytest.raises(StoreUnavailable, match="limit on the size of files"):
        maintenance.backup(tmp_path / "receiver.db", tmp_path / "copy.db")

    assert not (tmp_path / "copy.db").exists()
