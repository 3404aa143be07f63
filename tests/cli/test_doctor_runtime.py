"""`kling-receiver doctor` about what it runs on: SQLite, processes and units."""

import sqlite3
from pathlib import Path

from cli.conftest import write_config
from harness.doctor import run_doctor
from harness.ports import free_port

from receiver.service.doctor import units
from receiver.service.doctor.check import Status
from receiver.service.unit_files import SERVICE, SHIPPED, shipped
from receiver.store.sqlite.examination import has_wal_reset_bug


def test_the_sqlite_check_reports_this_version_and_forbids_other_writers(tmp_path: Path) -> None:
    config = write_config(tmp_path, free_port())

    finding = run_doctor(config).one("store.sqlite")

    has_bug = has_wal_reset_bug(sqlite3.sqlite_version)
    assert finding["details"] == {"version": sqlite3.sqlite_version, "wal_reset_bug": has_bug}
    assert finding["status"] == ("warning" if has_bug else "ok")
    if has_bug:
        assert f"Do not open {tmp_path / 'receiver.db'} with another program that can write" in finding["remedy"]
        assert "`kling-receiver db backup`" in finding["remedy"]


def test_too_few_processes_for_the_scripts_are_a_warning(tmp_path: Path) -> None:
    script = "[[routes]]\nname = 's'\nconcurrency = 200\nscript = { command = ['/bin/true'] }\n"
    config = write_config(tmp_path, free_port())
    config.write_text(config.read_text() + script)

    status, message, remedy = run_doctor(config, processes=700).says("limits.processes")

    assert status == "warning"
    assert "only 700 processes, and up to 200 scripts run at once" in message
    assert "LimitNPROC=" in remedy


def test_a_unit_with_another_program_path_counts_as_current(tmp_path: Path) -> None:
    installed = tmp_path / SERVICE
    installed.write_text(
        shipped(SERVICE).replace("/opt/kling-receiver/.venv/bin/kling-receiver", "/usr/bin/kling-receiver")
    )
    same = units.compare(SHIPPED, [tmp_path])
    installed.write_text(installed.read_text().replace("WatchdogSec=30s", "WatchdogSec=60s"))

    changed = units.compare(SHIPPED, [tmp_path])

    assert (same.status, changed.status) == (Status.OK, Status.WARNING)
    assert "systemctl edit kling-receiver" in changed.remedy
