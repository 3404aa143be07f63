"""Writes the manual page ``kling-receiver(1)`` from the definitions of the commands.

``python -m receiver.cli.man_page`` prints it. Only a few macros of man(7) are used, so every viewer shows it.
It has no date, so it changes only with a command.
"""

import re
import sys
from collections.abc import Iterator, Sequence

from cyclopts import App
from cyclopts.argument import Argument

from receiver.cli.commands import app
from receiver.cli.examples import examples_of
from receiver.cli.options import GLOBAL_OPTIONS

_HEAD = """\
.TH KLING\\-RECEIVER 1 "" "Kling Receiver" "User Commands"
.SH NAME
kling\\-receiver \\- receive Kling AI's callbacks and deliver each result
.SH SYNOPSIS
.B kling\\-receiver
.I COMMAND
[\\fIOPTION\\fR]...
.SH DESCRIPTION
"""
_EXIT_CODES = (
    ("0", "done"),
    ("1", "failed"),
    ("2", "wrong usage"),
    ("78", "wrong configuration"),
    ("130", "interrupted"),
)
_VARIABLES = (
    ("KLING_RECEIVER_CONFIG", "The configuration file."),
    ("KLING_RECEIVER_PROFILE", "The profile: a service by name, from the user's profiles.toml."),
    ("KLING_RECEIVER_URL", "URL of the admin listener, for commands that talk to the service."),
    ("KLING_RECEIVER_TOKEN", "Its admin token."),
    ("KLING_RECEIVER__SECTION__KEY", "Overrides a key of the configuration."),
    ("NO_COLOR", "No colours."),
)


def man_page() -> str:
    """Return the whole page."""
    return "\n".join([_HEAD.rstrip(), _text(app.help), *_commands(), *_endings(), ""])


def _commands() -> Iterator[str]:
    yield ".SH COMMANDS"
    for name in _visible(app):
        yield from _command((name,), app[name])


def _command(chain: Sequence[str], command: App) -> Iterator[str]:
    below = _visible(command)
    if not below or command.default_command is not None:
        yield f".SS {_text(' '.join(['kling-receiver', *chain, *_usage(chain)]))}"
        yield _text(command.help)
        for argument in _arguments(chain):
            if not _is_global(argument):
                yield from _option(argument)
        yield ".PP\nExamples:"
        for example in examples_of(chain):
            yield f".PP\n.RS\n.B {_text(example)}\n.RE"
    for name in below:
        yield from _command((*chain, name), command[name])


def _option(argument: Argument) -> Iterator[str]:
    if argument.is_positional_only():
        yield f".TP\n\\fI{_text(argument.name)}\\fR"
    else:
        word = (
            "" if argument.is_flag() else argument.parameter.metavar or "|".join(argument.get_choices(force=True) or ())
        )
        names = ", ".join(f"\\fB{_text(name)}\\fR" for name in argument.names)
        yield f".TP\n{names} \\fI{_text(word)}\\fR" if word else f".TP\n{names}"
    yield _text(argument.parameter.help or "")


def _endings() -> Iterator[str]:
    yield ".SH GLOBAL OPTIONS\n" + _text("Commands that talk to the service have all of them.")
    for argument in _arguments(("tasks", "list")):
        if _is_global(argument):
            yield from _option(argument)
    for title, entries in (("EXIT STATUS", _EXIT_CODES), ("ENVIRONMENT", _VARIABLES)):
        yield f".SH {title}"
        for name, text in entries:
            yield f".TP\n\\fB{_text(name)}\\fR\n{_text(text)}"
    yield ".SH SEE ALSO\n" + _text("The manual: kling-receiver docs, and kling-receiver docs SUBJECT.")


def _visible(command: App) -> list[str]:
    return [name for name in command if not name.startswith("-")]


def _arguments(chain: Sequence[str]) -> Sequence[Argument]:
    _, apps, _ = app.parse_commands(list(chain))
    with app.app_stack(apps):
        return [each for each in apps[-1].assemble_argument_collection() if each.show]


def _is_global(argument: Argument) -> bool:
    groups = argument.parameter.group
    return GLOBAL_OPTIONS in groups if isinstance(groups, tuple) else groups == GLOBAL_OPTIONS


def _usage(chain: Sequence[str]) -> list[str]:
    return [*(each.name for each in _arguments(chain) if each.is_positional_only()), "[OPTIONS]"]


def _text(text: str) -> str:
    """Return text that roff shows as it is: no line is taken for a request."""
    lines = text.replace("\\", "\\e").replace("-", "\\-").replace("`", "").splitlines()
    return re.sub(r"^(?=[.'])", r"\\&", "\n".join(line.strip() or ".PP" for line in lines), flags=re.MULTILINE).replace(
        "\\&.PP", ".PP"
    )


if __name__ == "__main__":
    sys.stdout.write(man_page())
