"""Writes ``completion.json``: what the shell may propose at each place of a command line.

``python -m receiver.cli.completion_table`` prints it. With the table, a completion needs no parser of command lines,
which takes longer to load than a shell should wait.
"""

import json
import sys
from collections.abc import Iterator

from cyclopts import App

from receiver.cli.commands import app
from receiver.domain.model import Json


def completion_table() -> str:
    """Return the table: the options and positions of each command, each with a function's name.

    It is a function of ``completion_candidates``. An empty name is a value without candidates; null
    is an option without a value. The last position repeats if ``repeats`` is true.
    """
    return json.dumps(dict(_commands((), app)), indent=0, sort_keys=True) + "\n"


def _commands(chain: tuple[str, ...], command: App) -> Iterator[tuple[str, Json]]:
    below = [name for name in command if not name.startswith("-")]
    if command.default_command is not None and (not below or chain):
        yield " ".join(chain), _arguments(command)
    for name in below:
        yield from _commands((*chain, name), command[name])


def _arguments(command: App) -> Json:
    options: dict[str, str | None] = {}
    positions: dict[int, str] = {}
    repeats = False
    for argument in command.assemble_argument_collection():
        completer = argument.parameter.completer
        kind = "" if completer is None else completer.__name__
        if argument.index is not None:
            positions[argument.index] = kind
            repeats = repeats or str(argument.hint).startswith("list")
        for name in argument.names:
            if name.startswith("--") and not name.startswith(("--no-", "--empty-")):
                options[name] = None if argument.hint is bool else kind
    return {"options": options, "positions": [positions[index] for index in sorted(positions)], "repeats": repeats}


if __name__ == "__main__":
    sys.stdout.write(completion_table())
