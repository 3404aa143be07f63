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
MODULES = sorted((ROOT / "receiver").rglob("*.py"))
SOURCES = [*MODULES, *sorted((ROOT / "tests").rglob("*.py"))]
LOCKS = ["requirements.lock", "requirements-storage.lock", "requirements-dev.lock"]

MAX_MODULE_LINES = 420
MAX_FUNCTION_LINES = 45

Function = ast.FunctionDef | ast.AsyncFunctionDef


def test_imports_follow_the_contracts() -> None:
    linted = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache", "--no-logo"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert linted.returncode == 0, linted.stdout + linted.stderr


def test_no_file_is_too_long() -> None:
    too_large = [
        f"{relative_name(room)}: {count}" for room in MODULES if (count := line_count(room)) > MAX_MODULE_LINES
    ]

    assert too_large == []


def test_no_function_is_too_long() -> None:
    too_long = [
        f"{relative_name(room)}:{function.lineno} {function.name}: {count}"
        for room in MODULES
        for function in functions(room)
        if (count := (function.end_lineno or 0) - function.lineno + 1) > MAX_FUNCTION_LINES
    ]

    assert too_long == []


def test_every_module_class_and_public_function_has_a_docstring() -> None:
    silent = [
        f"{relative_name(room)}:{getattr(node, 'lineno', 1)} {getattr(node, 'name', '')}".rstrip()
        for room in MODULES
        for node in [parse_module(room), *public_definitions(parse_module(room).body)]
        if ast.get_docstring(node) is None
    ]

    assert silent == []


def test_no_code_is_marked_as_unfinished() -> None:
    later = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X|HA" + r"CK)\b")  # in pieces, or this line would be found

    assert lines_matching(later) == []


def test_every_lint_exception_has_a_code_and_a_reason() -> None:
    unexplained = re.compile(
        r"#\s*(?:noqa(?!: [A-Z]+\d+(?:, [A-Z]+\d+)* +\S)|type: ignore(?!\[[a-z, -]+\] +\S))", re.IGNORECASE
    )

    assert lines_matching(unexplained) == []


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_file_has_hashes_and_no_addresses(lock: str) -> None:
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


def relative_name(room: Path) -> str:
    return str(room.relative_to(ROOT))


def line_count(room: Path) -> int:
    return len(room.read_text().splitlines())


def parse_module(room: Path) -> ast.Module:
    return ast.parse(room.read_text(), room)


def functions(room: Path) -> Iterator[Function]:
    return (node for node in ast.walk(parse_module(room)) if isinstance(node, Function))


def public_definitions(body: list[ast.stmt]) -> Iterator[ast.ClassDef | Function]:
    """Give what others can name: public classes and their methods, public functions; nothing inside a function."""
    for node in body:
        if isinstance(node, ast.ClassDef | Function) and not node.name.startswith("_") and not overloaded(node):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from public_definitions(node.body)


def overloaded(node: ast.ClassDef | Function) -> bool:
    return any(isinstance(mark, ast.Name) and mark.id in {"overload", "override"} for mark in node.decorator_list)


def lines_matching(pattern: re.Pattern[str]) -> list[str]:
    return [
        f"{relative_name(source)}:{number}: {line.strip()}"
        for source in SOURCES
        for number, line in enumerate(source.read_text().splitlines(), start=1)
        if pattern.search(line)
    ]
