"""The soak report contains all counts, for every kind of result."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from harness.soak_report import TABLE_HEADER, Report, Run

TESTS = Path(__file__).parents[1]
SOAK = """
import os
import pytest

@pytest.mark.soak("holds", minutes=1)
def test_holds(record_counts):
    record_counts(seed=7, cuts=10000, lost=0, answers={200: 1200, 503: 3})

@pytest.mark.soak("does not hold")
@pytest.mark.parametrize("jump", ["on", "back"])
def test_fails(record_counts, jump):
    record_counts(seed=8, kills=3)
    assert jump == "on", "12 | of them lost"

@pytest.mark.soak("cannot be tried")
@pytest.mark.skipif(True, reason="there is no strace here")
def test_is_skipped():
    pass

@pytest.mark.soak("takes its worker along", minutes=5)
def test_dies():
    os._exit(3)

def test_is_no_part_of_it():
    raise AssertionError
"""

WITHOUT = " ".join(f"-p no:{name}" for name in ("anyio", "asyncio", "hypothesispytest", "randomly", "schemathesis"))
"""Plugins that the made-up tests do not need. To import them in each worker takes seconds."""


def run_soak(folder: Path, *options: str) -> tuple["subprocess.CompletedProcess[str]", Path]:
    """Run a soak of a few made-up tests, and give where its report should be, without the ending."""
    (folder / "pytest.ini").write_text("[pytest]\naddopts = -p harness.soak_plugin " + WITHOUT)
    (folder / "test_made_up.py").write_text(SOAK)
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-n2", "--maxschedchunk=1", "-msoak", "--report=reports", *options, "."],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{TESTS}:{TESTS.parent}"},
        capture_output=True,
        text=True,
        check=False,
    )
    found = list((folder / "reports").glob("*.json"))
    assert len(found) == 1, ran.stdout + ran.stderr
    return ran, found[0].with_suffix("")


def test_a_report_includes_failed_runs_and_dead_workers(tmp_path: Path) -> None:
    ran, path = run_soak(tmp_path)

    printed = json.loads(path.with_suffix(".json").read_text())
    runs = {run["title"]: run for run in printed["runs"]}
    assert ran.returncode == 1
    assert {title: run["verdict"] for title, run in runs.items()} == {
        "holds": "held",
        "does not hold (on)": "held",
        "does not hold (back)": "failed",
        "cannot be tried": "skipped",
        "takes its worker along": "failed",
    }
    assert runs["holds"]["counts"] == {"seed": 7, "cuts": 10000, "lost": 0, "answers": {"200": 1200, "503": 3}}
    assert "12 | of them lost" in runs["does not hold (back)"]["why"]
    assert runs["cannot be tried"]["why"] == "there is no strace here"
    assert "crashed" in runs["takes its worker along"]["why"]
    assert printed["verdict"] == "2 held, 2 failed, 1 skipped"
    assert {"python", "sqlite", "product", "commit", "cores", "seconds"} <= printed.keys()
    assert {"uvicorn", "aiosqlite"} <= printed["packages"].keys()
    markdown = path.with_suffix(".md").read_text()
    assert "| holds | 7 | 10,000 cuts; 0 lost; answers 200: 1,200, 503: 3 |" in markdown
    assert markdown in ran.stdout
    assert f"reports/{path.name}.md" in ran.stdout


def test_an_interrupted_soak_leaves_a_marked_partial_report(tmp_path: Path) -> None:
    _, path = run_soak(tmp_path, "-n0", "--exitfirst", "--deselect=test_made_up.py::test_dies")

    printed = json.loads(path.with_suffix(".json").read_text())
    assert printed["is_finished"] is False
    assert printed["verdict"].startswith("NOT FINISHED")
    assert "NOT FINISHED" in path.with_suffix(".md").read_text()


def test_the_promises_page_has_the_reports_form() -> None:
    page = (TESTS.parent / "receiver" / "docs" / "promises.md").read_text(encoding="utf-8")
    report = Report(started_at=datetime(2026, 11, 27, tzinfo=UTC), runs=[Run(title="a run", test="test_a_run")])

    assert TABLE_HEADER in page
    assert TABLE_HEADER in report.markdown()
    assert "| a run |  |  | 0.0 s | unfinished |\n" in report.markdown()
