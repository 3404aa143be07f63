"""Finds globs in routes that match none of Kling's known endpoints, which is probably a mistake."""

from collections.abc import Iterator
from fnmatch import fnmatchcase

from receiver.kling.endpoints import CATALOGUE, resolve
from receiver.settings import Loaded
from receiver.settings.values import closest

_MODEL = "/{model}"
_PATHS = tuple(path for path, endpoint in CATALOGUE.items() if endpoint.asynchronous)


def unmatched_globs(loaded: Loaded) -> Iterator[str]:
    """Yield a warning for each glob of a route that matches no known endpoint."""
    for number, route in enumerate(loaded.settings.routes):
        place = f"routes.{number}.endpoints"
        for glob in route.endpoints:
            if not _matches(glob):
                origin = loaded.origins.get(place, "default")
                yield f"{origin}: {place}: {glob!r} matches no known endpoint of Kling; {_suggestion(glob)}"


def _matches(glob: str) -> bool:
    if not set(glob) & set("*?["):
        return resolve(glob) is not None
    kind = glob.partition("/")[0]
    return any(
        fnmatchcase(path, glob) or (path.endswith(_MODEL) and fnmatchcase(path.removesuffix(_MODEL), kind))
        for path in _PATHS
    )


def _suggestion(glob: str) -> str:
    kinds = sorted({path.partition("/")[0] for path in _PATHS})
    near = closest(glob.partition("/")[0], kinds)
    return f'did you mean "{near}/*"?' if near else "`kling-receiver endpoints` lists them"
