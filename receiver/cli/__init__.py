"""The command ``kling-receiver``: runs a command, and turns errors into one sentence and an exit code.

Nothing heavy is imported here. Each command is a module that is loaded when it is called.
This keeps the service's start fast and its memory free of terminal libraries.
"""

import errno
import gc
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from receiver.domain.errors import ConfigurationError, ReceiverError

if TYPE_CHECKING:
    from cyclopts import CycloptsError

OK = 0
FAILED = 1
USAGE = 2
CONFIGURATION = 78
INTERRUPTED = 130


class CommandFailed(ReceiverError):
    """The command could not do its work."""

    code = "failed"


_WRITE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
_PROGRAM = "kling-receiver"
_EXIT_CODES = {"usage": USAGE, ConfigurationError.code: CONFIGURATION}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Return its exit code: 0 ok, 1 failed, 2 usage, 78 configuration, 130 interrupted."""
    from receiver.cli import streams

    gc.disable()  # until the command is loaded: loaded modules are never freed, so collecting them only takes time
    streams.prepare()
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _run(arguments)
        sys.stdout.flush()
    except ReceiverError as error:
        _print_error(error, arguments)
        return _EXIT_CODES.get(error.code, FAILED)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        _discard_output()  # the reader closed the pipe, as `head` does
        return OK
    except OSError as error:
        if error.errno not in _WRITE_ERRORS or error.filename is not None:
            raise
        _print_error(CommandFailed(f"cannot write the output: {error.strerror}."), arguments)
        _discard_output()
        return FAILED
    finally:
        gc.enable()
        if argv is None:  # the process ends: a last collection of all objects takes a seventh of a short command
            gc.freeze()
    return code


def _run(argv: list[str]) -> int:
    if argv == ["--version"]:  # scripts ask this, so it does not load the parser
        from receiver import __version__

        sys.stdout.write(f"{_PROGRAM} {__version__}\n")
        return OK
    if argv[:1] == ["__complete"] and "CYCLOPTS_COMPLETION_WORDS" not in os.environ:
        from receiver.cli.fast_completion import complete

        if complete(argv[1:]):
            return OK
    from receiver.cli.run_service import plain_options, run_service

    argv = _move_global_options(argv)
    if (options := plain_options(argv)) is not None:
        return run_service(*options)
    return _parse_and_run(argv)


def _parse_and_run(argv: list[str]) -> int:
    from cyclopts import CycloptsError

    from receiver.cli import streams
    from receiver.cli.commands import app
    from receiver.cli.options import UsageError

    try:
        command, bound, _ = app.parse_args(argv)
        gc.enable()
        result = command(*bound.args, **bound.kwargs)
        if command == app.help_print:
            chain = app.parse_commands(argv)[0]
            _print_examples([name for name in chain if not name.startswith("-")])
    except CycloptsError as error:
        help_command = " ".join([_PROGRAM, *(error.command_chain or ()), "--help"])
        raise UsageError(f"{_argument_error_text(error)}\nSee: {help_command}") from error
    except UnicodeEncodeError:
        if (argument := streams.not_utf8(argv)) is None:
            raise
        raise UsageError(
            f"the argument {argument!r} is not UTF-8.", remedy="Use a terminal in UTF-8, or put the text into a file."
        ) from None
    except SystemExit as leaving:
        if isinstance(leaving.__context__, BrokenPipeError):
            return OK  # rich raises this when the reader of a table or a help text closed the pipe
        return leaving.code if isinstance(leaving.code, int) else FAILED
    return result if isinstance(result, int) else OK


def _print_examples(chain: Sequence[str]) -> None:
    from receiver.cli.examples import examples_of

    sys.stdout.write("\n".join(["Examples:", *(f"  {each}" for each in examples_of(chain)), "", ""]))


def _argument_error_text(error: "CycloptsError") -> str:
    from cyclopts import UnusedCliTokensError

    if not isinstance(error, UnusedCliTokensError) or not error.unused_tokens:
        return str(error)
    unexpected = error.unused_tokens[0]
    is_member = error.command_chain == ("submit",) and "=" in unexpected
    return f"Unexpected argument {unexpected!r}." + (f" Write --set {unexpected!r}." if is_member else "")


def _move_global_options(argv: list[str]) -> list[str]:
    """Move a leading ``--config`` behind the command, so that both positions work."""
    if not argv or not (argv[0] == "--config" or argv[0].startswith("--config=")):
        return argv
    width = 1 if "=" in argv[0] else 2
    lead, rest = argv[:width], argv[width:]
    end = rest.index("--") if "--" in rest else len(rest)
    return [*rest[:end], *lead, *rest[end:]]


def _discard_output() -> None:
    """Send remaining output to /dev/null: otherwise Python reports the error again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print_error(error: ReceiverError, argv: list[str]) -> None:
    from receiver.cli import problem

    problem.print_error(error, as_json=problem.wants_json(argv))
