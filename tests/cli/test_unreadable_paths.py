"""A folder without permission is reported by its setting, and never with a traceback."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from harness.run_cli import clean_environment

# What root has and nobody else: to go where permissions say no.
_BEYOND_PERMISSIONS = "-dac_override,-dac_read_search"


@pytest.fixture(scope="module")
def unprivileged() -> Sequence[str]:
    """Give what a command begins with to be held by permissions, as every account but root is."""
    if os.geteuid() != 0:
        return ()
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        pytest.skip("permissions do not hold root, and there is no setpriv to have less than root may")
    lead = (setpriv, f"--inh-caps={_BEYOND_PERMISSIONS}", f"--bounding-set={_BEYOND_PERMISSIONS}")
    if subprocess.run([*lead, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("permissions do not hold root, and this root may not lay down what puts it above them")
    return lead


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[Path]:
    """Make a folder with a program in it that nobody may enter."""
    folder = tmp_path / "locked"
    folder.mkdir()
    shutil.copy("/bin/true", folder / "publish")
    folder.chmod(0o000)
    yield folder
    folder.chmod(0o700)


def run(
    unprivileged: Sequence[str], *argv: str | Path, config: Path | None, **environ: str
) -> subprocess.CompletedProcess[str]:
    where = () if config is None else ("--config", str(config))
    return subprocess.run(
        [*unprivileged, sys.executable, "-m", "receiver", *map(str, argv), *where],
        env=clean_environment(**environ),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("argv", [("config", "check"), ("serve",), ("deliveries", "list")])
def test_a_store_in_a_locked_folder_is_an_error(unprivileged: Sequence[str], locked: Path, argv: tuple[str]) -> None:
    config = locked.parent / "config.toml"
    config.write_text('[store]\nurl = "sqlite:locked/in/receiver.db"\n')

    ended = run(unprivileged, *argv, config=config)

    assert ended.returncode == 78
    assert ended.stderr == (
        "kling-receiver: the configuration is invalid:\n"
        f"  {config}:2: store.url: {locked}/in/receiver.db cannot be inspected: Permission denied; "
        "run this as the service's user, and give it access to the parent folders\n"
    )


def test_other_paths_in_a_locked_folder_are_warnings(unprivileged: Sequence[str], locked: Path) -> None:
    config = locked.parent / "config.toml"
    config.write_text(
        '[archive]\ndir = "locked/results"\n'
        '[[routes]]\nname = "a"\nscript.command = ["locked/publish"]\nscript.cwd = "locked/in"\n'
    )

    ended = run(unprivileged, "config", "check", config=config, KLING_API_KEY="k")

    assert ended.returncode == 0
    for message, path in (
        ("2: archive.dir", "results"),
        ("5: routes.0.script.command", "publish"),
        ("6: routes.0.script.cwd", "in"),
    ):
        assert f"{config}:{message}: {locked}/{path} cannot be inspected: Permission denied; run this" in ended.stderr
    assert len(ended.stderr.splitlines()) == 3


def test_a_locked_usual_folder_is_skipped_if_a_file_exists_elsewhere(
    unprivileged: Sequence[str], locked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = locked.parent / "here"
    here.mkdir()
    monkeypatch.chdir(here)

    without = run(unprivileged, "config", "check", config=None, XDG_CONFIG_HOME=str(locked))
    (here / "config.toml").touch()
    beside = run(unprivileged, "config", "check", config=None, XDG_CONFIG_HOME=str(locked))

    assert without.returncode == 78
    assert f"{locked}/kling-receiver/config.toml: cannot be read: Permission denied; make it" in without.stderr
    assert beside.returncode == 0
    assert f"{here}/config.toml: good" in beside.stdout


def test_an_archive_folder_without_the_right_to_write_is_a_warning(tmp_path: Path, unprivileged: Sequence[str]) -> None:
    (tmp_path / "results").mkdir(mode=0o555)
    config = tmp_path / "config.toml"
    config.write_text('[archive]\ndir = "results"\n')

    checked = run(unprivileged, "config", "check", config=config)

    assert checked.returncode == 0
    assert f"archive.dir: {tmp_path}/results cannot be written to by this user" in checked.stderr
