"""The wheel and the Debian package are complete, and can be installed, upgraded and removed.

dpkg works in an empty root folder, and systemctl and systemd-sysusers are stand-ins that record their calls. The
programs of the package run from there. This takes half a minute, so only `.ci/run` does it, or PACKAGES=1 in the
environment. `.ci/run wheel` runs the wheel in an empty environment.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[2]
SITE_PACKAGES = Path(sys.prefix) / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
SYSTEM_PYTHON = Path("/usr/bin/python3")
INSTALLED_PYTHON = """\
Package: python3
Status: install ok installed
Architecture: amd64
Maintainer: nobody <nobody@example.com>
Version: {version}
Description: stands in for the system's Python
"""

STAND_IN = '#!/bin/sh\necho "${0##*/} $*" >>"$RECORD"\n'


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_has_every_file_of_the_package(wheel: Path) -> None:
    sources = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "receiver").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    units = {f"receiver/systemd/{path.name}" for path in (ROOT / "systemd").glob("kling-receiver*.s*")}

    names = ZipFile(wheel).namelist()
    packed = {name for name in names if ".dist-info/" not in name and ".data/" not in name}

    assert packed == sources | units | {"receiver/systemd/config.toml"}
    assert [name for name in names if name.endswith("/share/man/man1/kling-receiver.1")]


def test_the_wheel_runs_without_its_sources(wheel: Path, tmp_path: Path) -> None:
    with ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    run = [sys.executable, "-m", "receiver"]
    environ = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "XDG_CONFIG_HOME": str(tmp_path / "home")}

    version = subprocess.run([*run, "--version"], cwd=tmp_path, env=environ, capture_output=True, text=True, check=True)
    manual = subprocess.run([*run, "docs"], cwd=tmp_path, env=environ, capture_output=True, text=True, check=True)
    where = subprocess.run(
        [sys.executable, "-c", "import receiver; print(receiver.__file__)"],
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        text=True,
        check=True,
    )

    assert where.stdout.startswith(str(tmp_path))
    assert version.stdout.startswith("kling-receiver 0.")
    assert "operations" in manual.stdout


@pytest.fixture(scope="module")
def packages(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two versions of the Debian package in one folder."""
    if "PACKAGES" not in os.environ:
        pytest.skip("set PACKAGES=1 to build and install the Debian package")
    if shutil.which("dpkg") is None or not SYSTEM_PYTHON.exists():
        pytest.skip("the Debian package is built and installed on Debian")
    if system_version() != sys.version_info[:2]:
        pytest.skip(f"the packages here are for another Python than {SYSTEM_PYTHON}")
    folder = tmp_path_factory.mktemp("deb")
    newer = folder / wheel.name.replace("-0.1.0-", "-0.1.1-")
    build = [sys.executable, str(ROOT / "systemd/package/build_deb.py")]
    subprocess.run([*build, str(wheel), str(folder), "--packages", str(SITE_PACKAGES)], check=True, capture_output=True)
    (package,) = folder.glob("*.deb")
    raise_version(package, newer.with_suffix(".deb"))
    return folder


def system_version() -> tuple[int, ...]:
    version = subprocess.run([str(SYSTEM_PYTHON), "--version"], capture_output=True, text=True, check=True).stdout
    return tuple(int(part) for part in version.split()[1].split(".")[:2])


def raise_version(package: Path, newer: Path) -> None:
    """Copy a package under a later version, with nothing else changed."""
    parts = newer.parent / "parts"
    subprocess.run(["/usr/bin/dpkg-deb", "--raw-extract", str(package), str(parts)], check=True)
    control = parts / "DEBIAN" / "control"
    control.write_text(control.read_text().replace("Version: 0.1.0", "Version: 0.1.1"))
    subprocess.run(["/usr/bin/dpkg-deb", "--build", "-Znone", str(parts), str(newer)], check=True, capture_output=True)
    shutil.rmtree(parts)


class Machine:
    """An empty root folder that dpkg installs into."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "root"
        self.record = folder / "record"
        self._tools = folder / "tools"
        self._tools.mkdir()
        for name in ("systemctl", "systemd-sysusers"):
            (self._tools / name).write_text(STAND_IN)
            (self._tools / name).chmod(0o755)
        admin = self.root / "var/lib/dpkg"
        for name in ("info", "updates", "triggers"):
            (admin / name).mkdir(parents=True)
        version = ".".join(map(str, system_version()))
        (admin / "status").write_text(INSTALLED_PYTHON.format(version=f"{version}.2-1"))
        (self.root / "run/systemd/system").mkdir(parents=True)

    def dpkg(self, *arguments: str) -> str:
        """Run dpkg on this root. Return its output."""
        options = [f"--root={self.root}", "--force-script-chrootless", "--force-unsafe-io", f"--log={self.record}.dpkg"]
        environ = {
            **os.environ,
            "PATH": f"{self._tools}:{os.environ['PATH']}:/usr/sbin:/sbin",
            "RECORD": str(self.record),
        }
        done = subprocess.run(
            ["/usr/bin/dpkg", *options, *arguments], env=environ, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def calls(self) -> list[str]:
        """Return the recorded calls since the last time."""
        calls = self.record.read_text().splitlines() if self.record.exists() else []
        self.record.write_text("")
        return calls


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_the_package_is_installed_upgraded_and_removed(packages: Path, machine: Machine, tmp_path: Path) -> None:
    first, second = sorted(packages.glob("*.deb"), key=lambda each: "0.1.1" in each.name)
    config = machine.root / "etc/kling-receiver/config.toml"

    output = machine.dpkg("--install", str(first))
    assert machine.calls() == [f"systemd-sysusers --root={machine.root} kling-receiver.conf", "systemctl daemon-reload"]
    assert "nothing was started" in output
    check_installed_program(machine.root, config, tmp_path)

    config.write_text(config.read_text() + "\n[poll]\nevery = '9m'\n")
    machine.dpkg("--install", "--force-confdef", str(second))
    assert machine.calls()[1:] == ["systemctl daemon-reload", "systemctl try-restart kling-receiver.service"]
    assert "every = '9m'" in config.read_text(), "the operator's configuration stays"

    machine.dpkg("--remove", "kling-receiver")
    assert machine.calls() == [
        "systemctl disable --now kling-receiver.service kling-receiver.socket",
        "systemctl daemon-reload",
    ]
    assert config.exists()
    assert not (machine.root / "usr/lib/kling-receiver").exists(), "it leaves no file of its own"


def check_installed_program(root: Path, config: Path, home: Path) -> None:
    """Run the program of the package from its folder, with nothing from this environment."""
    place = root / "usr/lib/kling-receiver"
    python = [str(place / "bin/python"), "-Im", "receiver"]
    bare = {"PATH": "/usr/bin:/bin", "HOME": str(home)}

    version = subprocess.run([*python, "--version"], env=bare, capture_output=True, text=True, check=False)
    shown = subprocess.run(
        [*python, "config", "show", "--config", str(config)], env=bare, capture_output=True, text=True, check=False
    )
    unit = (root / "usr/lib/systemd/system/kling-receiver.service").read_text()
    names = {path.name.partition("-")[0].lower() for path in place.glob("lib/python3*/site-packages/*.dist-info")}

    assert version.stdout == "kling-receiver 0.1.0\n", version.stderr
    assert "sqlite:/var/lib/kling-receiver/receiver.db" in shown.stdout
    assert "ExecStart=/usr/lib/kling-receiver/bin/kling-receiver serve" in unit
    assert "/opt/" not in "".join(line for line in unit.splitlines() if not line.startswith("#"))
    assert {"starlette", "uvicorn", "kling_receiver"} <= names
    assert not names & {"pytest", "hatchling", "mypy", "nfpm"}


@pytest.mark.parametrize("purges", [True, False], ids=["purges", "not asked"])
def test_a_purge_removes_the_store_only_when_asked(tmp_path: Path, purges: bool) -> None:
    state, settings = tmp_path / "var/lib/kling-receiver", tmp_path / "etc/kling-receiver"
    state.mkdir(parents=True)
    settings.mkdir(parents=True)
    (state / "receiver.db").write_text("the store")
    if purges:
        (settings / "remove-state").touch()

    ended = subprocess.run(
        ["/bin/sh", str(ROOT / "systemd/package/postrm"), "purge"],
        env={"PATH": "/usr/bin:/bin", "DPKG_ROOT": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )

    assert state.exists() is not purges
    assert ("are kept" in ended.stdout) is not purges
    assert not settings.exists()
