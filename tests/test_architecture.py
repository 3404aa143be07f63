"""The structure of the code: imports, folders, sizes, docstrings and lock files."""

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
FOLDERS = """
archive cli cli/demo cli/mcp client delivery delivery/senders docs docs/images docs/monitoring docs/postgresql domain
domain/api_schema events kling kling/simulator net service service/doctor service/nodes settings store
store/interfaces store/postgres store/postgres/sql store/postgres/sql/migrations store/sql store/sqlite
store/sqlite/sql store/sqlite/sql/migrations submission tasks tracking web web/console web/console/pages
web/console/static web/console/static/vendor web/console/templates web/openapi web/resources web/server
"""
EXTRAS = ["storage", "previews", "notify", "otel", "postgres", "mcp"]
LOCKS = ["requirements.lock", "requirements-dev.lock", *(f"requirements-{extra}.lock" for extra in EXTRAS)]

CLIENT_COMMANDS = """
alerts batches bulk_progress bulk_submit callback_url cancel completion completion_candidates cost costs
deliveries endpoints events explain job_file profiles replay retry routes submit submit_body task_columns task_wait
tasks watch_table
"""
HEAVY = """
aiosqlite anyio httpcore2 httpx2 jmespath jwt prometheus_client pydantic receiver.domain.api_schema.resources
receiver.net receiver.service receiver.store receiver.web rich sqlite3 starlette structlog uvicorn uvloop
"""

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 40

Function = ast.FunctionDef | ast.AsyncFunctionDef


def test_imports_follow_the_contracts() -> None:
    lint = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache", "--no-logo"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert lint.returncode == 0, lint.stdout + lint.stderr


def test_commands_that_only_talk_to_the_service_load_none_of_its_parts() -> None:
    names = [f"receiver.cli.{name}" for name in CLIENT_COMMANDS.split()]
    code = (
        f"import sys, {', '.join(names)}, receiver.settings.client; print(*(set({HEAVY.split()}) & set(sys.modules)))"
    )

    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert ended.stdout.split() == []


def test_the_package_has_exactly_the_folders_of_the_layout() -> None:
    package = ROOT / "receiver"

    found = {
        str(file.parent.relative_to(package))
        for file in package.rglob("*")
        if file.is_file() and file.parent not in (package, *package.rglob("__pycache__"))
    }

    assert sorted(found) == sorted(FOLDERS.split())


def test_no_file_is_too_long() -> None:
    too_long = [
        f"{relative_name(source)}: {count}"
        for source in (*SOURCES, *(ROOT / "receiver").rglob("*.sql"))
        if (count := line_count(source)) > MAX_FILE_LINES
    ]

    assert too_long == []


def test_no_function_is_too_long() -> None:
    too_long = [
        f"{relative_name(module)}:{function.lineno} {function.name}: {count}"
        for module in MODULES
        for function in functions(module)
        if (count := (function.end_lineno or 0) - function.lineno + 1) > MAX_FUNCTION_LINES
    ]

    assert too_long == []


def test_every_module_class_and_public_function_has_a_docstring() -> None:
    undocumented = [
        f"{relative_name(module)}:{getattr(node, 'lineno', 1)} {getattr(node, 'name', '')}".rstrip()
        for module in MODULES
        for node in [parse_module(module), *public_definitions(parse_module(module).body)]
        if ast.get_docstring(node) is None
    ]

    assert undocumented == []


def test_no_code_is_marked_as_unfinished() -> None:
    unfinished = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X|HA" + r"CK)\b")  # split, or this line would match

    assert lines_matching(unfinished) == []


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
    required = [*project["project"]["dependencies"], *project["dependency-groups"]["install"]]

    locked = set(re.findall(r"^([a-z0-9-]+)==", (ROOT / lock).read_text(), re.MULTILINE))
    assert {re.split(r"[\s<>=!~\[;]", dependency)[0] for dependency in required} <= locked


def test_each_extra_has_a_lock_and_a_make_target() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())

    assert list(project["project"]["optional-dependencies"]) == EXTRAS
    assert f"EXTRAS := {' '.join(EXTRAS)}\n" in (ROOT / "Makefile").read_text()


def relative_name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def line_count(path: Path) -> int:
    return len(path.read_text().splitlines())


def parse_module(module: Path) -> ast.Module:
    return ast.parse(module.read_text(), module)


def functions(module: Path) -> Iterator[Function]:
    return (node for node in ast.walk(parse_module(module)) if isinstance(node, Function))


def public_definitions(body: list[ast.stmt]) -> Iterator[ast.ClassDef | Function]:
    """Yield public classes with their public methods, and public functions."""
    for node in body:
        if isinstance(node, ast.ClassDef | Function) and not node.name.startswith("_") and not is_overload(node):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from public_definitions(node.body)


def is_overload(node: ast.ClassDef | Function) -> bool:
    return any(isinstance(mark, ast.Name) and mark.id in {"overload", "override"} for mark in node.decorator_list)


def lines_matching(pattern: re.Pattern[str]) -> list[str]:
    return [
        f"{relative_name(source)}:{number}: {line.strip()}"
        for source in SOURCES
        for number, line in enumerate(source.read_text().splitlines(), start=1)
        if pattern.search(line)
    ]
