"""The systemd units for an installation anywhere: those that are shipped, with the paths of this one."""

import re
import stat
from collections.abc import Mapping
from pathlib import Path

from receiver.domain.errors import ReceiverError

SERVICE, SOCKET = "kling-receiver.service", "kling-receiver.socket"
SYSTEM_FOLDER = Path("/etc/systemd/system")
SYSTEM_CONFIG = Path("/etc/kling-receiver/config.toml")

_PACKAGE = Path(__file__).parents[1]
SHIPPED = (_PACKAGE / "systemd", _PACKAGE.parent / "systemd", _PACKAGE.parent)
"""Where this version's units and its configuration may be: inside an installed package, or beside it in a clone."""

_SHIPPED_PROGRAM = "/opt/kling-receiver/.venv/bin/kling-receiver"
_PROGRAM = re.compile(r"^(Exec\w+=)\S+", re.MULTILINE)
_SYSTEM_STORE = ('url = "sqlite:var/receiver.db" ', 'url = "sqlite:/var/lib/kling-receiver/receiver.db" ')
_OURS = "Kling Receiver"
_PRIVATE_PLACES = ("/home/", "/root/", "/run/user/")
_USER_SETTINGS = (
    "Type",
    "NotifyAccess",
    "ExecStart",
    "ExecReload",
    "TimeoutStartSec",
    "WatchdogSec",
    "Restart",
    "RestartSec",
    "RestartPreventExitStatus",
    "KillMode",
    "TimeoutStopSec",
    "OOMPolicy",
    "UMask",
)
"""What a user's unit keeps. The sandbox and the account of its own need the system's manager."""


class UnitError(ReceiverError):
    """Units cannot be written or removed."""

    code = "units"


def shipped(name: str) -> str:
    """Return the text of a file that is shipped beside the units."""
    for folder in SHIPPED:
        if (folder / name).is_file():
            return (folder / name).read_text("utf-8")
    raise UnitError(f"{name} is missing in this installation.", remedy="Install the package again.")


def system_units(program: Path) -> Mapping[str, str]:
    """Return the units of the system's service that runs *program*, by name. Raises UnitError if it could not."""
    _check_is_reachable(program)
    service = shipped(SERVICE).replace(_SHIPPED_PROGRAM, str(program))
    return {SERVICE: service, SOCKET: shipped(SOCKET)}


def user_units(program: Path) -> Mapping[str, str]:
    """Return the units of a user's service that runs *program*, by name."""
    lines = shipped(SERVICE).replace(_SHIPPED_PROGRAM, str(program)).splitlines()
    kept = [line for line in lines if line.partition("=")[0] in _USER_SETTINGS]
    service = "\n".join(
        [
            f"# {_OURS} as a service of one user.",
            "",
            "[Unit]",
            "Description=Kling Receiver: callback receiver and event router for Kling AI",
            f"Wants={SOCKET}",
            f"After={SOCKET}",
            "",
            "[Service]",
            *kept,
            "Environment=KLING_RECEIVER_CONFIG=%E/kling-receiver/config.toml",
            "EnvironmentFile=-%E/kling-receiver/environment",
            "",
            "[Install]",
            "WantedBy=default.target",
            f"Also={SOCKET}",
            "",
        ]
    )
    return {SERVICE: service, SOCKET: shipped(SOCKET)}


def reference_config(*, for_user: bool) -> str:
    """Return the reference configuration; the system's store is in the folder that its unit may write to."""
    text = shipped("config.toml")
    return text if for_user else text.replace(*_SYSTEM_STORE)


def same_unit(text: str, other: str) -> bool:
    """Return whether two units are the same apart from the path of the program."""
    return _PROGRAM.sub(r"\1", text) == _PROGRAM.sub(r"\1", other)


def write(folder: Path, units: Mapping[str, str]) -> list[Path]:
    """Write units, and return the files that were new or changed. Files that are not ours are not replaced."""
    for name in units:
        _check_is_ours(folder / name)
    changed = []
    for name, text in units.items():
        path = folder / name
        if not path.exists() or path.read_text("utf-8") != text:
            _replace(path, text)
            changed.append(path)
    return changed


def write_if_missing(path: Path, text: str) -> bool:
    """Write a file unless it exists. Return whether it was written."""
    if path.exists():
        return False
    _replace(path, text)
    return True


def remove(folder: Path) -> list[Path]:
    """Remove the units, and return their files. Raises UnitError while they are enabled."""
    enabled = sorted(folder.glob(f"*.wants/{SERVICE}")) + sorted(folder.glob(f"*.wants/{SOCKET}"))
    if enabled:
        scope = "" if folder == SYSTEM_FOLDER else "--user "
        raise UnitError(
            f"The units are still enabled: {enabled[0]}.",
            remedy=f"Run `systemctl {scope}disable --now {SERVICE} {SOCKET}` first.",
        )
    found = [folder / name for name in (SERVICE, SOCKET) if (folder / name).exists()]
    for path in found:
        _check_is_ours(path)
    for path in found:
        path.unlink()
    return found


def _check_is_ours(path: Path) -> None:
    if path.exists() and _OURS not in path.read_text("utf-8", errors="replace"):
        raise UnitError(f"{path} is not a unit of Kling Receiver.", remedy="Move it away first.")


def _replace(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.part")
        draft.write_text(text, "utf-8")
        draft.rename(path)
    except OSError as exc:
        remedy = "Run the command as root, or with --user for a service of your own."
        raise UnitError(f"{path} cannot be written: {exc.strerror}.", remedy=remedy) from exc


def _check_is_reachable(program: Path) -> None:
    """Raise UnitError if the service's account cannot run a program."""
    remedy = "Install it in a folder of the system, such as with PIPX_HOME=/opt/pipx, or write units with --user."
    paths = (program, program.resolve(), _interpreter(program))
    for path in paths:
        if str(path).startswith(_PRIVATE_PLACES):
            raise UnitError(f"The service cannot run {path}: its sandbox hides /home and /root.", remedy=remedy)
    for path in paths:
        for each in (path, *path.parents):
            if each.exists() and not each.stat().st_mode & stat.S_IXOTH:
                raise UnitError(f"The service's account cannot run {path}: {each} is private.", remedy=remedy)


def _interpreter(program: Path) -> Path:
    """Return the interpreter that a script names, with links followed."""
    try:
        first = program.read_bytes()[:512].splitlines()[0]
    except (OSError, IndexError) as exc:
        raise UnitError(f"{program} cannot be read.", remedy="Install the package again.") from exc
    found = re.match(rb"#!\s*(/\S+)", first)
    return Path(found[1].decode()).resolve() if found else program
