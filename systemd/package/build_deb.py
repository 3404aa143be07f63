"""Builds the Debian package: a virtual environment of the target's Python with the locked packages, and the units.

    build_deb.py WHEEL FOLDER [--python /usr/bin/python3] [--packages SITE_PACKAGES]

The package runs with the Python version that it was built with, so build it on the release that it is for.
``--packages`` takes the installed packages from there instead of the package index.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path
from string import Template
from tempfile import TemporaryDirectory

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PREFIX = Path("/usr/lib/kling-receiver")
OLD_PREFIX = "/opt/kling-receiver/.venv"
NAME = "kling-receiver"

PROGRAM = f"""\
#!{PREFIX}/bin/python -I
import sys

from receiver.cli import main

sys.exit(main())
"""


def main() -> None:
    """Build the package and print its path."""
    parser = argparse.ArgumentParser(description="Build the Debian package.")
    parser.add_argument("wheel", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--python", default="/usr/bin/python3")
    parser.add_argument("--packages", type=Path)
    options = parser.parse_args()
    with TemporaryDirectory() as work:
        stage = Path(work) / "stage"
        site = make_environment(stage, options.python)
        install_packages(site, options.wheel, options.packages, version=site.parent.name.removeprefix("python"))
        add_system_files(stage)
        compile_sources(stage, site, options.python)
        options.folder.mkdir(parents=True, exist_ok=True)
        pack(Path(work), site.parent.name.removeprefix("python"), options.wheel, options.folder)


def make_environment(stage: Path, python: str) -> Path:
    """Create the virtual environment as it will be under ``PREFIX``. Return its folder for packages."""
    place = stage / PREFIX.relative_to("/")
    run(python, "-m", "venv", "--without-pip", "--symlinks", str(place))
    for script in place.glob("bin/[Aa]ctivate*"):
        script.unlink()
    settings = place / "pyvenv.cfg"
    kept = [line for line in settings.read_text().splitlines() if not line.startswith("command")]
    settings.write_text("\n".join(kept) + "\n")
    program = place / "bin" / NAME
    program.write_text(PROGRAM)
    program.chmod(0o755)
    (site,) = place.glob("lib/python3.*/site-packages")
    return site


def install_packages(site: Path, wheel: Path, packages: Path | None, *, version: str) -> None:
    """Install the locked packages that the program needs, and the program itself."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "--quiet", "install"]
    target = ["--target", str(site), "--no-deps", "--only-binary", ":all:", "--python-version", version]
    if packages is None:
        run(*pip, *target, "--require-hashes", "-r", str(ROOT / "requirements.lock"))
    run(*pip, *target, str(wheel))
    needed = set(closure(NAME, {each.name: each for each in distributions(path=[str(site), str(packages or site)])}))
    if packages is not None:
        copy_distributions(needed - {NAME}, packages, site)
    for each in list(distributions(path=[str(site)])):
        if normal(each.name) not in needed:
            for file in each.files or ():
                Path(str(file.locate())).unlink(missing_ok=True)
    shutil.rmtree(site / "bin", ignore_errors=True)
    for folder in sorted(site.rglob("*"), reverse=True):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def closure(name: str, found: dict[str, Distribution]) -> Iterator[str]:
    """Yield the names of a package and of all that it needs, without extras."""
    by_name = {normal(key): each for key, each in found.items()}
    waiting, seen = [normal(name)], set()
    while waiting:
        current = waiting.pop()
        if current in seen or current not in by_name:
            continue
        seen.add(current)
        yield current
        requires = (each for each in by_name[current].requires or () if "extra ==" not in each)
        waiting += [normal(re.split(r"[^A-Za-z0-9._-]", each, maxsplit=1)[0]) for each in requires]


def normal(name: str) -> str:
    """Return a package's name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def copy_distributions(names: set[str], source: Path, target: Path) -> None:
    """Copy installed packages from another environment."""
    for each in distributions(path=[str(source)]):
        for file in each.files or () if normal(each.name) in names else ():
            if ".." not in file.parts and file.suffix != ".pyc":
                place = target / file
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(str(file.locate()), place)


def add_system_files(stage: Path) -> None:
    """Add the units with the package's paths, the account and the license."""
    units = stage / "usr/lib/systemd/system"
    units.mkdir(parents=True)
    for unit in sorted((ROOT / "systemd").glob("kling-receiver*.s*")):
        (units / unit.name).write_text(unit.read_text().replace(OLD_PREFIX, str(PREFIX)))
    for source, target in (
        (HERE / "sysusers.conf", "usr/lib/sysusers.d/kling-receiver.conf"),
        (ROOT / "LICENSE", "usr/share/doc/kling-receiver/copyright"),
        (ROOT / "systemd" / "kling-receiver.1", "usr/share/man/man1/kling-receiver.1"),
    ):
        place = stage / target
        place.parent.mkdir(parents=True)
        shutil.copy(source, place)
    command = stage / "usr/bin" / NAME
    command.parent.mkdir()
    command.symlink_to(PREFIX / "bin" / NAME)


def compile_sources(stage: Path, site: Path, python: str) -> None:
    """Compile all sources: the service cannot write into the system, and would compile them at each start."""
    run(python, "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", "-s", str(stage), str(site))


def pack(work: Path, python: str, wheel: Path, folder: Path) -> None:
    """Write the package with nfpm."""
    config = work / "config.toml"
    reference = (ROOT / "config.toml").read_text()
    config.write_text(reference.replace("sqlite:var/", "sqlite:/var/lib/kling-receiver/", 1))
    major, minor = python.split(".")
    values = {
        "arch": run("dpkg", "--print-architecture").strip(),
        "version": wheel.name.split("-")[1],
        "stage": work / "stage",
        "config": config,
        "scripts": HERE,
        "python": python,
        "next_python": f"{major}.{int(minor) + 1}",
    }
    recipe = work / "nfpm.yaml"
    recipe.write_text(Template((HERE / "nfpm.yaml").read_text()).substitute(values))
    nfpm = shutil.which("nfpm", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}") or "nfpm"
    print(run(nfpm, "package", "--config", str(recipe), "--packager", "deb", "--target", str(folder)))  # noqa: T201 -- its output


def run(*command: str) -> str:
    """Run a command and return its output."""
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout  # noqa: S603 -- commands of this script


if __name__ == "__main__":
    main()
