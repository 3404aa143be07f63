"""The help of every command, its examples, and the manual page."""

import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from cyclopts import App

from receiver.cli import main
from receiver.cli.commands import app
from receiver.cli.examples import EXAMPLES, examples_of
from receiver.cli.man_page import man_page

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "systemd" / "kling-receiver.1"
GROFF = shutil.which("groff")


def every_command(above: App = app, chain: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Return the path of every command, and of every group of commands."""
    names = [name for name in above if not name.startswith("-")]
    return [chain, *(path for name in names for path in every_command(above[name], (*chain, name)))]


@pytest.mark.parametrize("chain", every_command(), ids=" ".join)
def test_every_help_says_what_a_value_looks_like_and_ends_with_examples(
    chain: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*chain, "--help"]) == 0
    output = capsys.readouterr().out

    assert re.findall(r"--[\w-]+ (?:STR|INT|PATH|FLOAT|TEXT\.\.\.)\b", output) == []
    assert examples_of(chain)
    assert all(f"  {example}\n" in output.partition("Examples:")[2] for example in examples_of(chain))


def test_every_example_is_accepted_and_shows_its_own_command() -> None:
    assert {" ".join(chain) for chain in every_command()} == set(EXAMPLES)
    for path, examples in EXAMPLES.items():
        for example in examples:
            app.parse_args(shlex.split(example))  # raises if it is not a command line
            assert example.startswith(path)


def test_the_manual_page_is_that_of_the_commands_and_in_the_wheel() -> None:
    assert PAGE.read_text() == man_page(), "Run: make fmt"
    shared = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert shared["shared-data"] == {str(PAGE.relative_to(ROOT)): "share/man/man1/kling-receiver.1"}


@pytest.mark.skipif(GROFF is None, reason="groff is not installed")
def test_the_manual_page_is_shown_without_a_warning() -> None:
    shown = subprocess.run(
        [GROFF or "", "-man", "-ww", "-Tutf8", "-P-c", PAGE], capture_output=True, text=True, check=True, timeout=60
    )

    assert shown.stderr == ""
    text = re.sub(r".\x08", "", shown.stdout)
    for chain in every_command():
        if chain and chain[0] != "callback-url":
            assert f"kling-receiver {' '.join(chain)}" in text
