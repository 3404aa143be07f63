"""The systemd units: whether those that are installed are the ones of this version."""

from collections.abc import Sequence
from pathlib import Path

from receiver.service.doctor.check import Finding, Subject, ok, warning
from receiver.service.unit_files import SHIPPED, same_unit

INSTALLED = (Path("/etc/systemd/system"), Path("/usr/local/lib/systemd/system"), Path("/usr/lib/systemd/system"))
_PATTERN = "kling-receiver*.*"


def installed(_subject: Subject) -> Finding:
    """Check that the installed units are current."""
    return compare(SHIPPED, INSTALLED)


def compare(shipped: Sequence[Path], folders: Sequence[Path]) -> Finding:
    """Compare the units in *folders* with those in the first folder of *shipped* that exists."""
    found: dict[str, Path] = {}
    for folder in folders:
        for unit in sorted(folder.glob(_PATTERN)):
            if unit.is_file():
                found.setdefault(unit.name, unit)
    if not found:
        return ok("No systemd unit is installed.")
    details = {"units": [str(unit) for unit in found.values()]}
    source = next((folder for folder in shipped if folder.is_dir()), None)
    if source is None:
        return ok(f"{_names(found)} are installed. There are no shipped units here to compare them with.", **details)
    old = [name for name, unit in found.items() if _differs(unit, source / name)]
    if old:
        return warning(
            f"{_names(old)} in {next(iter(found.values())).parent} differ from this version's.",
            "Keep your own settings in a drop-in (`systemctl edit kling-receiver`). Then run `kling-receiver systemd "
            "install && systemctl daemon-reload`, and restart the service.",
            **details,
            differ=old,
        )
    return ok(f"{_names(found)} are those of this version.", **details)


def _differs(unit: Path, original: Path) -> bool:
    """Return whether a unit was shipped and has other content. Units of your own are not compared."""
    return original.is_file() and not same_unit(unit.read_text("utf-8", errors="replace"), original.read_text("utf-8"))


def _names(units: object) -> str:
    return ", ".join(units) if isinstance(units, dict | list) else ""
