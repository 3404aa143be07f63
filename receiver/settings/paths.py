"""What stands where a path of the configuration leads, as far as the account that asks may see."""

import stat
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class PathInfo:
    """What was found at a path; ``hidden`` is a sentence where nobody could look, and what to do about that."""

    exists: bool = False
    is_file: bool = False
    is_folder: bool = False
    problem: str = ""


def probe(path: Path) -> PathInfo:
    """See what stands at *path*, for the sake of a sentence about it. Raises nothing, whatever is in the way."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: no path can be written so
        return PathInfo()
    except PermissionError as exc:
        remedy = "run this as the service's user, and let it enter the folders above"
        return PathInfo(problem=f"{path} cannot be looked at: {exc.strerror}; {remedy}")
    except OSError as exc:
        return PathInfo(problem=f"{path} cannot be looked at: {exc.strerror}; name another path")
    return PathInfo(exists=True, is_file=stat.S_ISREG(mode), is_folder=stat.S_ISDIR(mode))
