"""`kling-receiver systemd`: writes and removes units for this installation. It starts and stops nothing."""

import os
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from receiver.cli import OK, render
from receiver.service import unit_files
from receiver.service.unit_files import SERVICE, SOCKET, SYSTEM_CONFIG, SYSTEM_FOLDER, UnitError

systemd = App(name="systemd", help="Write or remove systemd units for this installation.")

_ForUser = Annotated[bool, Parameter(help="Units of the current user, without root.")]


@systemd.command
def install(
    *,
    user: _ForUser = False,
    dry_run: Annotated[bool, Parameter(help="Print the files instead of writing them.")] = False,
) -> int:
    """Write units that run this installation, and a configuration if there is none. Starts nothing."""
    program = _program()
    folder, config = _places(for_user=user)
    units = unit_files.user_units(program) if user else unit_files.system_units(program)
    reference = unit_files.reference_config(for_user=user)
    if dry_run:
        for name, text in units.items():
            for line in (f"# {folder / name}", *text.splitlines(), ""):
                render.print_line(line)
        render.print_line(f"# {config}: {'exists, and stays' if config.exists() else 'the reference configuration'}")
        return OK
    changed = unit_files.write(folder, units)
    if unit_files.write_if_missing(config, reference):
        changed.append(config)
    for path in changed:
        render.print_line(f"{path}: written")
    if not changed:
        render.print_line("Everything is up to date.")
    for line in _next_steps(config, for_user=user):
        render.notice(line)
    return OK


@systemd.command
def uninstall(*, user: _ForUser = False) -> int:
    """Remove the units. The configuration and the store stay."""
    folder, config = _places(for_user=user)
    removed = unit_files.remove(folder)
    for path in removed:
        render.print_line(f"{path}: removed")
    if not removed:
        render.print_line(f"There are no units in {folder}.")
    render.notice(f"Then run `systemctl{' --user' * user} daemon-reload`. {config} and the store stay.")
    return OK


def _program() -> Path:
    """Return the program of this installation, as a path that survives an upgrade."""
    program = Path(sys.argv[0])
    found = program if program.name == "kling-receiver" else Path(sys.executable).with_name("kling-receiver")
    found = Path(os.path.abspath(found))  # noqa: PTH100 -- a link stays a link, such as pipx's
    if not found.is_file():
        raise UnitError(f"There is no program {found}.", remedy="Install the package with pip, pipx or its .deb.")
    return found


def _places(*, for_user: bool) -> tuple[Path, Path]:
    """Return the folder of the units, and the configuration file."""
    if not for_user:
        return SYSTEM_FOLDER, SYSTEM_CONFIG
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return home / "systemd" / "user", home / "kling-receiver" / "config.toml"


def _next_steps(config: Path, *, for_user: bool) -> list[str]:
    manager = "systemctl --user" if for_user else "systemctl"
    key = (
        f"  echo KLING_API_KEY=... > {config.parent}/environment && chmod 600 {config.parent}/environment"
        if for_user
        else "  install -m 0600 /dev/stdin /etc/kling-receiver/kling-api-key      # paste the key, then Ctrl-D"
    )
    return [
        "Nothing was started. Next:",
        key,
        f"  {manager} daemon-reload && {manager} enable --now {SOCKET} {SERVICE}",
    ]
