"""The product's prose uses the field's terms, in plain English."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
MODULES = sorted((ROOT / "receiver").rglob("*.py"))
TEXTS = [
    *MODULES,
    ROOT / "README.md",
    ROOT / "config.toml",
    *sorted((ROOT / "receiver" / "docs").glob("*.md")),
    *sorted(path for path in (ROOT / "systemd").rglob("*") if path.is_file()),
]

RETIRED = {
    "anteroom": "startup gate",
    "anybody": "name the actor",
    r"ask(s|ed|ing)? about": "poll, confirm",
    "attendance": "callback monitor",
    r"bells?": "notifier",
    r"(brought|brings?|comes?|on their way) home": "archive, download",
    r"errands?": "create",
    r"(goes|go|went) out": "is sent, is delivered",
    "hearsay": "unconfirmed push",
    "let go": "release, close",
    "nobody": "name the actor, or use the passive",
    "no word of": "without a",
    "patience": "circuit breaker",
    "somebody": "name the actor",
    r"(is|are|was|were|be) told(?! apart)": "is notified, is delivered",
    r"told of": "is notified, is delivered",
    "whatever": "any, every",
    "whoever": "name the actor",
}
"""Words of earlier texts, as patterns, each with the words to use instead."""

EXCEPTIONS: dict[tuple[str, str], str] = {}
"""Allowed uses: (file, words as found, in lower case) and the reason."""

GAP = r"(?:\s|#)+"
"""Space between two words, also across lines of a comment."""

DOCSTRING_STARTS = re.compile(r"(Tells?|Gives?|Says?)\b")

Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def test_the_product_contains_no_retired_word() -> None:
    found = [
        f"{name}:{number}: '{words}', use: {instead}"
        for name, number, words, instead in retired_words()
        if (name, words) not in EXCEPTIONS
    ]

    assert found == []


def test_every_exception_is_needed_and_has_a_reason() -> None:
    used = {(name, words) for name, _, words, _ in retired_words()}

    assert [exception for exception, reason in EXCEPTIONS.items() if exception not in used or not reason] == []


def test_docstrings_state_what_is_returned_or_done() -> None:
    found = [
        f"{relative_name(module)}:{getattr(node, 'lineno', 1)}: {docstring.splitlines()[0]}"
        for module in MODULES
        for node in ast.walk(ast.parse(module.read_text(), module))
        if isinstance(node, Documented) and DOCSTRING_STARTS.match(docstring := ast.get_docstring(node) or "")
    ]

    assert found == []


def retired_words() -> Iterator[tuple[str, int, str, str]]:
    """Yield file, line, words and replacement of each retired word, also if a line break divides it."""
    patterns = {re.compile(rf"\b{words.replace(' ', GAP)}\b", re.IGNORECASE): new for words, new in RETIRED.items()}
    for path in TEXTS:
        text = path.read_text()
        for pattern, instead in patterns.items():
            for match in pattern.finditer(text):
                words = re.sub(GAP, " ", match[0].lower())
                yield relative_name(path), text.count("\n", 0, match.start()) + 1, words, instead


def relative_name(path: Path) -> str:
    return str(path.relative_to(ROOT))
