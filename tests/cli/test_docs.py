"""`kling-receiver docs` shows the manual, without a service or a configuration."""

import json
from pathlib import Path

import pytest

from receiver.cli import main, render
from receiver.cli.docs import SUBJECTS

FOLDER = Path(__file__).parents[2] / "receiver" / "docs"

Out = pytest.CaptureFixture[str]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the command write to a terminal of 80 columns."""
    monkeypatch.setattr(render, "is_terminal", lambda _stream=None: True)
    monkeypatch.setenv("COLUMNS", "80")


def test_every_page_of_the_manual_is_a_subject() -> None:
    assert sorted(SUBJECTS) == sorted(path.stem for path in FOLDER.glob("*.md"))


def test_docs_lists_each_subject_with_its_purpose(capsys: Out) -> None:
    assert main(["docs"]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]

    assert [cells[0] for cells in lines] == list(SUBJECTS)
    assert dict(lines)["costs"] == "What Kling charged for each task, and how to sum it."
    assert [subject for subject, purpose in lines if not purpose.endswith(".")] == []


@pytest.mark.usefixtures("terminal")
def test_docs_prints_a_table_of_subjects_on_a_terminal(capsys: Out) -> None:
    assert main(["docs"]) == 0
    shown = capsys.readouterr().out

    assert "SUBJECT" in shown
    assert "PURPOSE" in shown
    assert max(len(line) for line in shown.splitlines()) <= 80


def test_docs_list_can_be_json(capsys: Out) -> None:
    assert main(["docs", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)

    assert [item["subject"] for item in listed["items"]] == list(SUBJECTS)
    assert listed["next"] is None
    assert {"subject": "alerts", "title": "Alerts"}.items() <= listed["items"][SUBJECTS.index("alerts")].items()


@pytest.mark.parametrize("subject", SUBJECTS)
def test_docs_prints_markdown_in_a_pipe(capsys: Out, subject: str) -> None:
    assert main(["docs", subject]) == 0

    assert capsys.readouterr().out == (FOLDER / f"{subject}.md").read_text(encoding="utf-8")


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize("subject", SUBJECTS)
def test_docs_renders_a_page_on_a_terminal(capsys: Out, subject: str) -> None:
    assert main(["docs", subject]) == 0
    shown = capsys.readouterr().out

    assert "|---|" not in shown
    assert "\n## " not in shown
    assert max(len(line) for line in shown.splitlines()) <= 80


def test_a_page_of_docs_can_be_json(capsys: Out) -> None:
    assert main(["docs", "alerts", "--json"]) == 0

    assert json.loads(capsys.readouterr().out) == {
        "subject": "alerts",
        "title": "Alerts",
        "purpose": "Each alert, when it is raised, and what to do.",
        "markdown": (FOLDER / "alerts.md").read_text(encoding="utf-8"),
    }


def test_an_unknown_subject_of_docs_is_a_usage_error(capsys: Out) -> None:
    assert main(["docs", "alert"]) == 2
    captured = capsys.readouterr()

    assert captured.out == ""
    assert [subject for subject in SUBJECTS if f'"{subject}"' not in captured.err] == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_the_subjects(capsys: Out, shell: str) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out

    assert [subject for subject in SUBJECTS if subject not in script] == []
