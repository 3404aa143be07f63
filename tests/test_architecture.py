"""The shape of the house: who may know whom, how large a room may grow, what each must say about itself."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = sorted((ROOT / "receiver").rglob("*.py"))
SOURCES = [*ROOMS, *sorted((ROOT / "tests").rglob("*.py"))]
LOCKS = ["requirements.lock", "requirements-storage.lock", "requirements-dev.lock"]

LINES_OF_A_ROOM = 420
LINES_OF_A_FUNCTION = 45

Function = ast.FunctionDef | ast.AsyncFunctionDef


def test_imports_go_the_way_the_contracts_say() -> None:
    linted = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache", "--no-logo"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert linted.returncode == 0, linted.stdout + linted.stderr


def test_no_room_is_too_large_to_be_read_at_once() -> None:
    too_large = [f"{named(room)}: {count}" for room in ROOMS if (count := lines(room)) > LINES_OF_A_ROOM]

    assert too_large == []


def test_no_function_is_too_long_to_be_seen_at_once() -> None:
    too_long = [
        f"{named(room)}:{function.lineno} {function.name}: {count}"
        for room in ROOMS
        for function in functions(room)
        if (count := (function.end_lineno or 0) - function.lineno + 1) > LINES_OF_A_FUNCTION
    ]

    assert too_long == []


def test_every_room_class_and_public_function_says_what_it_is_for() -> None:
    silent = [
        f"{named(room)}:{getattr(node, 'lineno', 1)} {getattr(node, 'name', '')}".rstrip()
        for room in ROOMS
        for node in [parsed(room), *spoken_for(parsed(room).body)]
        if ast.get_docstring(node) is None
    ]

    assert silent == []


def test_nothing_is_left_for_later() -> None:
    later = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X|HA" + r"CK)\b")  # in pieces, or this line would be found

    assert matching(later) == []


def test_every_exception_to_a_rule_names_it_and_says_why() -> None:
    unexplained = re.compile(
        r"#\s*(?:noqa(?!: [A-Z]+\d+(?:, [A-Z]+\d+)* +\S)|type: ignore(?!\[[a-z, -]+\] +\S))", re.IGNORECASE
    )

    assert matching(unexplained) == []


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_holds_names_versions_and_hashes_and_no_address(lock: str) -> None:
    text = (ROOT / lock).read_text()

    assert re.findall(r"https?:\S*|^--\S.*", text, re.MULTILINE) == []
    pins = re.findall(r"^[a-z0-9-]+==\S+.*\\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", text, re.MULTILINE)
    assert len(pins) == len(re.findall(r"^\w", text, re.MULTILINE))


@pytest.mark.parametrize("lock", LOCKS)
def test_every_dependency_is_locked(lock: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [*project["project"]["dependencies"], *project["dependency-groups"]["install"]]

    locked = set(re.findall(r"^([a-z0-9-]+)==", (ROOT / lock).read_text(), re.MULTILINE))
    assert {re.split(r"[\s<>=!~\[;]", dependency)[0] for dependency in wanted} <= locked


def named(room: Path) -> str:
    return str(room.relative_to(ROOT))


def lines(room: Path) -> int:
    return len(room.read_text().splitlines())


def parsed(room: Path) -> ast.Module:
    return ast.parse(room.read_text(), room)


def functions(room: Path) -> Iterator[Function]:
    return (node for node in ast.walk(parsed(room)) if isinstance(node, Function))


def spoken_for(body: list[ast.stmt]) -> Iterator[ast.ClassDef | Function]:
    """Give what others can name: public classes and their methods, public functions; nothing inside a function."""
    for node in body:
        if isinstance(node, ast.ClassDef | Function) and not node.name.startswith("_") and not overloaded(node):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from spoken_for(node.body)


def overloaded(node: ast.ClassDef | Function) -> bool:
    return any(isinstance(mark, ast.Name) and mark.id in {"overload", "override"} for mark in node.decorator_list)


def matching(pattern: re.Pattern[str]) -> list[str]:
    return [
        f"{named(source)}:{number}: {line.strip()}"
        for source in SOURCES
        for number, line in enumerate(source.read_text().splitlines(), start=1)
        if pattern.search(line)
    ]
