"""The rules of single checks of `kling-receiver doctor`, and how checks are run."""

import asyncio
import threading
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from harness.clock import START, FakeClock
from harness.factories import a_delivery, an_event, at
from harness.sqlite_template import open_store

from receiver.domain.errors import NoResponse, StoreUnavailable
from receiver.domain.model import DeliveryStatus, Event
from receiver.domain.redaction import Redactor
from receiver.events.payload import envelope
from receiver.net.reachability import Reached
from receiver.service.doctor import deliveries, examination, process, public_url, store, units
from receiver.service.doctor.check import Check, Finding, RunningService, Status, Subject, ok
from receiver.settings import PublicSettings, RouteSettings, ScriptSettings, Settings, StoreSettings
from receiver.store.disk import file_system
from receiver.store.sqlite.examination import has_wal_reset_bug, waiting_work
from receiver.store.sqlite.store import SqliteStore

MOUNTS = """\
22 1 8:1 / / rw - ext4 /dev/sda1 rw
30 22 0:40 / /srv rw,relatime shared:1 - nfs4 nas:/srv rw
31 22 0:41 / /var/my\\040disk rw - tmpfs none rw
32 30 8:2 / /srv/local rw - xfs /dev/sdb rw
"""
RUNNING = {
    "version": "0.0.1",
    "python": "3.11.7",
    "sqlite": "3.52.0",
    "event_loop": "asyncio",
    "http_parser": "httptools",
    "open_files": 20,
    "open_files_limit": None,
    "processes_limit": 100,
    "started_at": "2026-11-22T10:00:00.000Z",
    "checks": [{"name": "store", "ok": True, "reason": ""}],
}


def a_subject(folder: Path, *, url: str = "", running: bool = False, **checks: object) -> Subject:
    settings = Settings(
        store=StoreSettings(url=f"sqlite:{folder / 'receiver.db'}"),
        public=PublicSettings(url=url),
        routes=(RouteSettings(name="script", script=ScriptSettings(command=("/bin/true",)), concurrency=50),),
    )
    service = RunningService(diagnostics=RUNNING | checks if running else {})
    return Subject(settings=settings, service=service, redactor=Redactor(), clock=FakeClock())


@pytest.mark.parametrize(
    ("version", "has_bug"),
    [("3.6.23", False), ("3.7.0", True), ("3.40.1", True), ("3.51.2", True), ("3.51.3", False), ("3.52.0", False)],
)
def test_the_versions_with_the_wal_reset_bug_are_known(version: str, has_bug: bool) -> None:
    assert has_wal_reset_bug(version) is has_bug


def test_an_old_sqlite_is_a_warning_against_other_writers(tmp_path: Path) -> None:
    old, new = (store.sqlite(a_subject(tmp_path, running=True, sqlite=version)) for version in ("3.40.1", "3.52.0"))

    assert (old.status, new.status) == (Status.WARNING, Status.OK)
    assert "Do not open" in old.remedy
    assert "kling-receiver db backup" in old.remedy


@pytest.mark.parametrize(
    ("folder", "kind"),
    [("/", "ext4"), ("/srv/data", "nfs4"), ("/srv/local/data", "xfs"), ("/var/my disk/a", "tmpfs"), ("/srvx", "ext4")],
)
def test_the_file_system_is_that_of_the_nearest_mount(tmp_path: Path, folder: str, kind: str) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS)

    assert file_system(Path(folder), mounts) == kind


@pytest.mark.parametrize(("kind", "status"), [("nfs4", Status.FAILED), ("tmpfs", Status.WARNING), ("ext4", Status.OK)])
def test_a_store_on_a_network_or_in_memory_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, status: Status
) -> None:
    monkeypatch.setattr(store, "file_system", lambda _: kind)

    assert store.file_system_type(a_subject(tmp_path)).status is status


@pytest.mark.parametrize(("days", "status"), [(3, Status.WARNING), (60, Status.OK)])
async def test_a_certificate_that_ends_soon_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, days: int, status: Status
) -> None:
    async def reach(*_: object, **__: object) -> Reached:
        return Reached(host="h", address=None, certificate_ends_at=START + timedelta(days=days))

    monkeypatch.setattr(public_url, "reach", reach)

    finding = await public_url.certificate(a_subject(tmp_path, url="https://hooks.example.com"))

    assert finding.status is status
    assert f"{days} " in finding.message


def test_units_that_differ_are_named_and_others_are_not_compared(tmp_path: Path) -> None:
    shipped, etc, lib = (tmp_path / name for name in ("shipped", "etc", "lib"))
    for folder in (shipped, etc, lib):
        folder.mkdir()
        (folder / "kling-receiver.service").write_text("new")
    none = units.compare([shipped], [tmp_path / "missing"])
    same = units.compare([shipped], [etc, lib])
    (etc / "kling-receiver.service").write_text("old")
    (etc / "kling-receiver-mine.service").write_text("mine")

    changed = units.compare([tmp_path / "missing", shipped], [etc, lib])

    assert (none.status, same.status, changed.status) == (Status.OK, Status.OK, Status.WARNING)
    assert changed.details["differ"] == ["kling-receiver.service"]
    assert "systemctl daemon-reload" in changed.remedy


def test_the_running_services_limits_count_and_not_those_of_the_shell(tmp_path: Path) -> None:
    subject = a_subject(tmp_path, running=True)

    assert process.open_files(subject).message == "The service may have any number of files open."
    assert process.processes(subject).status is Status.WARNING
    assert "up to 50 scripts" in process.processes(subject).message
    assert process.runtime(subject).message == "The service uses asyncio instead of uvloop."


def test_an_old_running_version_and_an_unready_service_are_named(tmp_path: Path) -> None:
    old = process.service(a_subject(tmp_path, running=True))
    unready = process.service(
        a_subject(tmp_path, running=True, checks=[{"name": "store", "ok": False, "reason": "The disk is full."}])
    )

    assert (old.status, old.remedy) == (Status.WARNING, "Restart the service.")
    assert unready.status is Status.FAILED
    assert "store: The disk is full." in unready.message


@pytest.fixture
async def filled(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    opened = await open_store(tmp_path / "receiver.db", clock=FakeClock())
    yield opened
    await opened.aclose()


async def test_an_old_backlog_is_a_warning(filled: SqliteStore, tmp_path: Path) -> None:
    subject = a_subject(tmp_path)
    waiting = a_delivery(status=DeliveryStatus.PENDING, created_at=START - timedelta(hours=1))
    await filled.tasks.add_events([an_alert("alert.made_up", START)], [waiting])

    (finding,) = deliveries.backlog(subject)  # type: ignore[misc]  # a list here

    assert finding.status is Status.WARNING
    assert finding.details["oldest_seconds"] == 3600


@pytest.mark.parametrize(
    ("kind", "age", "status"),
    [
        ("alert.callbacks_missed", timedelta(days=20), Status.FAILED),
        ("alert.callbacks_recovered", timedelta(days=1), Status.WARNING),
        ("alert.callbacks_recovered", timedelta(days=20), Status.OK),
    ],
)
async def test_missed_callbacks_fail_the_check_until_callbacks_arrive_again(
    filled: SqliteStore, tmp_path: Path, kind: str, age: timedelta, status: Status
) -> None:
    await filled.tasks.add_events([an_alert(kind, START - age)], [])

    finding = deliveries.callbacks(a_subject(tmp_path, url="https://hooks.example.com"))

    assert finding.status is status
    assert finding.details["missed"] == 7


def an_alert(kind: str, when: datetime) -> Event:
    return an_event(type=kind, task_id=None, created_at=when, envelope=envelope(kind, when, {"missed": 7, "of": 9}))


async def test_reading_the_store_has_a_time_limit(filled: SqliteStore, tmp_path: Path) -> None:
    events = [an_event(f"evt_{number:025}", type="alert.made_up", task_id=None) for number in range(3000)]
    await filled.tasks.add_events(events, [])

    with pytest.raises(StoreUnavailable, match="takes longer than 0 s"):
        waiting_work(tmp_path / "receiver.db", dead_since=at(0), time_limit=timedelta())


async def test_a_hanging_check_is_a_warning_and_delays_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("receiver.service.doctor.check.TIME_LIMIT", timedelta(seconds=1))
    released = threading.Event()

    async def hang(_: Subject) -> Finding:
        await asyncio.Event().wait()
        raise AssertionError

    def block(_: Subject) -> Finding:
        released.wait(120)
        raise AssertionError

    checks = [Check("hangs", hang), Check("blocks", block), Check("good", lambda _: ok("Fine."))]
    subject = a_subject(tmp_path)
    try:
        async with asyncio.timeout(60):
            found = await asyncio.gather(*(check.run(subject) for check in checks))
    finally:
        released.set()

    assert [(each[0].name, each[0].status) for each in found] == [
        ("hangs", Status.WARNING),
        ("blocks", Status.WARNING),
        ("good", Status.OK),
    ]


async def test_an_error_in_a_check_is_reported_as_its_finding(tmp_path: Path) -> None:
    def refuse(_: Subject) -> Finding:
        raise NoResponse("It did not answer.", remedy="Start it.")

    def lock(_: Subject) -> Finding:
        raise PermissionError(13, "Permission denied", "/secret")

    def break_down(_: Subject) -> Finding:
        raise KeyError("member")

    checks = (refuse, lock, break_down)
    (refused,), (locked,), (broken,) = [await Check("a", check).run(a_subject(tmp_path)) for check in checks]

    assert (refused.status, refused.message, refused.remedy) == (Status.FAILED, "It did not answer.", "Start it.")
    assert locked.message == "/secret cannot be read: Permission denied."
    assert (broken.status, "KeyError" in broken.message) == (Status.FAILED, True)


def test_every_check_has_its_own_name_and_a_sentence() -> None:
    names = [check.name for check in examination.CHECKS]

    assert len(set(names)) == len(names)
    assert [check.name for check in examination.CHECKS if not (check.look.__doc__ or "").strip().endswith(".")] == []
