"""The command ``kling-receiver``: turns arguments into a command, and trouble into a sentence and an exit code.

Nothing heavy is imported here. Each command lives in a file of its own that is loaded when it is called, so that
the service starts quickly and carries no terminal library around.
"""

import errno
import os
import sys
from collections.abc import Sequence

OK = 0
FAILED = 1
USAGE = 2
CONFIGURATION = 78
INTERRUPTED = 130

_WRITE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
_PROGRAM = "kling-receiver"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and give its exit code: 0 ok, 1 failed, 2 usage, 78 configuration, 130 interrupted."""
    from receiver.domain.errors import ConfigurationError, ReceiverError

    try:
        code = _run(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
    except ConfigurationError as error:
        _print_error("the configuration does not hold:\n" + "\n".join(f"  {fault}" for fault in error.faults))
        return CONFIGURATION
    except ReceiverError as error:
        _print_error(str(error))
        return USAGE if error.code == "usage" else FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        _discard_output()  # whoever read it has seen enough
        return OK
    except OSError as error:
        if error.errno not in _WRITE_ERRORS or error.filename is not None:
            raise
        _print_error(f"the output cannot be written: {error.strerror}.")
        _discard_output()
        return FAILED
    return code


def _run(argv: list[str]) -> int:
    from cyclopts import CycloptsError

    from receiver.cli.commands import app

    try:
        result = app(_move_global_options(argv))
    except CycloptsError as error:
        _print_error(f"{error}\nSee: {' '.join([_PROGRAM, *(error.command_chain or ())])} --help")
        return USAGE
    except SystemExit as leaving:
        if isinstance(leaving.__context__, BrokenPipeError):
            return OK  # how a table or a help text says that its reader has seen enough
        # The parser's own way of saying that Ctrl-C came.
        return leaving.code if isinstance(leaving.code, int) else FAILED
    return result if isinstance(result, int) else OK


def _move_global_options(argv: list[str]) -> list[str]:
    """Let ``--config`` stand before the command too, by moving it behind."""
    if not argv or not (argv[0] == "--config" or argv[0].startswith("--config=")):
        return argv
    width = 1 if "=" in argv[0] else 2
    lead, rest = argv[:width], argv[width:]
    end = rest.index("--") if "--" in rest else len(rest)
    return [*rest[:end], *lead, *rest[end:]]


def _discard_output() -> None:
    """Write to nowhere what is left: Python would complain once more while it shuts down."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print_error(text: str) -> None:
    sys.stderr.write(f"{_PROGRAM}: {text}\n")
