"""`systemd install` and `uninstall` write and remove units for an installation anywhere, and start nothing."""

from pathlib import Path

import pytest

from receiver.cli import main, systemd
from receiver.service import unit_files
from receiver.service.unit_files import SERVICE, SOCKET, UnitError, same_unit, system_units, user_units


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def program() -> Path:
    """A program in a folder that every account may enter."""
    return Path("/bin/true")


def test_units_of_a_user_run_this_installation(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["systemd", "install", "--user"]) == 0

    service = (home / "systemd" / "user" / SERVICE).read_text()
    captured = capsys.readouterr()
    assert f"ExecStart={systemd._program()} serve" in service
    assert "DynamicUser" not in service
    assert (home / "kling-receiver" / "config.toml").exists()
    assert "Nothing was started." in captured.err
    assert f"systemctl --user daemon-reload && systemctl --user enable --now {SOCKET} {SERVICE}" in captured.err


def test_a_second_install_changes_nothing_and_keeps_the_configuration(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["systemd", "install", "--user"])
    (home / "kling-receiver" / "config.toml").write_text("# mine\n")
    capsys.readouterr()

    assert main(["systemd", "install", "--user"]) == 0

    assert capsys.readouterr().out == "Everything is up to date.\n"
    assert (home / "kling-receiver" / "config.toml").read_text() == "# mine\n"


def test_a_dry_run_prints_the_files_and_writes_nothing(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["systemd", "install", "--user", "--dry-run"]) == 0

    output = capsys.readouterr().out
    assert f"# {home / 'systemd' / 'user' / SERVICE}\n" in output
    assert "[Service]\nType=notify\n" in output
    assert list(home.iterdir()) == []


def test_units_are_removed_once_they_are_disabled(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["systemd", "install", "--user"])
    folder = home / "systemd" / "user"
    enabled = folder / "default.target.wants" / SERVICE
    enabled.parent.mkdir()
    enabled.symlink_to(folder / SERVICE)

    assert main(["systemd", "uninstall", "--user"]) == 1
    assert "systemctl --user disable --now" in capsys.readouterr().err
    enabled.unlink()
    assert main(["systemd", "uninstall", "--user"]) == 0

    assert not (folder / SERVICE).exists()
    assert not (folder / SOCKET).exists()
    assert (home / "kling-receiver" / "config.toml").exists()


def test_a_unit_that_is_not_ours_is_not_replaced(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = home / "systemd" / "user" / SERVICE
    other.parent.mkdir(parents=True)
    other.write_text("[Service]\nExecStart=/bin/other\n")

    assert main(["systemd", "install", "--user"]) == 1

    assert "is not a unit of Kling Receiver" in capsys.readouterr().err
    assert "/bin/other" in other.read_text()


def test_units_of_the_system_differ_only_by_the_program(program: Path) -> None:
    units = system_units(program)

    assert "ExecStart=/bin/true serve" in units[SERVICE]
    assert "ExecReload=/bin/true config reload" in units[SERVICE]
    assert all(same_unit(text, unit_files.shipped(name)) for name, text in units.items())
    assert not same_unit(units[SERVICE].replace("TimeoutStopSec=60s", "TimeoutStopSec=5s"), units[SERVICE])


def test_the_installed_configuration_uses_the_store_of_the_system_unit() -> None:
    text = unit_files.reference_config(for_user=False)

    assert '\nurl = "sqlite:/var/lib/kling-receiver/receiver.db"' in text


def test_install_refuses_a_program_that_the_service_cannot_reach(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    private = tmp_path / "kling-receiver"
    private.write_text("#!/usr/bin/python3\n")
    private.chmod(0o755)

    with pytest.raises(UnitError, match="is private") as refused:
        system_units(private)

    assert "PIPX_HOME=/opt/pipx" in refused.value.remedy
    assert f"ExecStart={private} serve" in user_units(private)[SERVICE]


def test_install_refuses_an_interpreter_below_root(tmp_path: Path) -> None:
    script = tmp_path / "kling-receiver"
    script.write_text("#!/root/.pyenv/bin/python\n")

    with pytest.raises(UnitError, match="sandbox hides /home and /root"):
        system_units(script)
