"""How things look: tables and colour on a terminal, tab-separated lines in a pipe, JSON where asked for.

What is shown comes from strangers in part, so nothing that could command a terminal ever reaches it.
"""

import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, TextIO, TypeAlias

from receiver.model import Json

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

_STYLES = {
    "succeed": "green",
    "delivered": "green",
    "accepted": "green",
    "failed": "red",
    "rejected": "red",
    "expired": "red",
    "dead": "red",
    "refused": "red",
    "held": "red",
    "processing": "yellow",
    "pending": "yellow",
    "submitted": "cyan",
    "submitting": "cyan",
    "queued": "cyan",
    "open": "cyan",
    "closed": "yellow",
    "finished": "green",
}

_UNPRINTABLE = re.compile("[\x7f-\x9f\ud800-\udfff]")  # those that json.dumps lets through
_UNLIMITED = 10_000  # columns; no terminal has as many

Cell: TypeAlias = Callable[[Json], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column of a table: its title, and where its text is found in an item."""

    title: str
    of: Cell
    short: Cell | None = None  # what a terminal shows instead, where space is dear
    stateful: bool = False  # coloured by what it says
    whole: bool = False  # never folded, so that it can be copied


def key(name: str, title: str | None = None) -> Column:
    """Make a column of a plain member."""
    return Column(title=title or name.replace("_", " "), of=lambda item: item.get(name))


def identity(name: str, title: str) -> Column:
    """Make a column of an id."""
    return Column(title=title, of=lambda item: item.get(name), whole=True)


def state(name: str) -> Column:
    """Make a column of a state or status, coloured by what it says."""
    return Column(title=name, of=lambda item: item.get(name), stateful=True)


def moment(name: str, title: str) -> Column:
    """Make a column of a moment: local time on a terminal, as the API writes it in a pipe."""
    return Column(title=title, of=lambda item: item.get(name), short=lambda item: local(item.get(name)), whole=True)


def is_terminal(stream: TextIO | None = None) -> bool:
    """Tell whether a person looks at *stream* (default: stdout)."""
    return (stream or sys.stdout).isatty()


def console(stream: TextIO | None = None) -> "Console":
    """Open a terminal for rich output; colour is left out as NO_COLOR and TERM ask."""
    from rich.console import Console

    return Console(file=stream or sys.stdout, highlight=False, emoji=False, markup=False)


def clean(value: object) -> str:
    """Write a value on one line, with control characters shown instead of obeyed."""
    text = "" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = text.rstrip("\r\n")
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else " " if c in "\t\r\n" else f"\\x{ord(c):02x}" for c in text)


def local(moment: object) -> str:
    """Write a moment of the API's in this machine's own time."""
    if not isinstance(moment, str):
        return ""
    try:
        return datetime.fromisoformat(moment).astimezone().strftime("%m-%d %H:%M:%S")
    except ValueError:
        return clean(moment)


def as_json(value: object) -> None:
    """Print a value as JSON."""
    sys.stdout.write(_json(value, indent=2) + "\n")


def as_json_line(value: object) -> None:
    """Print a value as one line of JSON, at once."""
    sys.stdout.write(_json(value) + "\n")
    sys.stdout.flush()


def line(*cells: object) -> None:
    """Print one plain line, its cells tab-separated, at once."""
    sys.stdout.write("\t".join(clean(cell) for cell in cells) + "\n")
    sys.stdout.flush()


def note(sentence: str) -> None:
    """Tell a person something beside the output proper."""
    sys.stderr.write(clean(sentence) + "\n")
    sys.stderr.flush()


def table(columns: Sequence[Column], items: Iterable[Json], *, empty: str) -> None:
    """Print items as a table, or in a pipe as tab-separated lines without a head."""
    if not is_terminal():
        for item in items:
            line(*(column.of(item) for column in columns))
        return
    rows = list(items)
    if rows:
        _print_whole(grid(columns, rows))
    else:
        note(empty)


def grid(columns: Sequence[Column], items: Sequence[Json]) -> "RenderableType":
    """Lay items out for a terminal; a column with nothing in it is left out."""
    from rich.table import Table

    laid = Table(box=None, header_style="bold", padding=(0, 2, 0, 0), pad_edge=False)
    cells = {column: [_cell(column, item) for item in items] for column in columns}
    told = [column for column in columns if any(cell.plain for cell in cells[column])]
    for column in told:
        narrowest = max(cell.cell_len for cell in cells[column]) if column.whole else None
        laid.add_column(column.title.upper(), overflow="fold", no_wrap=column.whole, min_width=narrowest)
    for row in zip(*(cells[column] for column in told), strict=True):
        laid.add_row(*row)
    return laid


def page(columns: Sequence[Column], answer: Json, *, as_json_too: bool, empty: str) -> None:
    """Print one page of a list of the API's, and how to get the next."""
    if as_json_too:
        as_json(answer)
        return
    table(columns, answer["items"], empty=empty)
    if answer.get("next") and is_terminal():
        note(f"There is more: --cursor {answer['next']}")


def fields(pairs: Iterable[tuple[str, object]]) -> None:
    """Print named values, one a line; empty ones are left out."""
    shown = [(name, value) for name, value in pairs if value not in (None, "", {}, [])]
    if not is_terminal():
        for name, value in shown:
            line(name, value)
        return
    from rich.text import Text

    width = max((len(name) for name, _ in shown), default=0) + 2
    for name, value in shown:
        # Not a table: a path or a URL that was folded could not be copied.
        console().print(Text.assemble((name.ljust(width), "bold"), coloured(clean(value))), soft_wrap=True)


def when(moment: object) -> object:
    """Give a moment the way its reader wants it: local time on a terminal, as the API wrote it in a pipe."""
    return local(moment) if is_terminal() else moment


def coloured(text: str) -> "Text":
    """Give a word the colour of what it says."""
    from rich.text import Text

    return Text(text, style=_STYLES.get(text, ""))


def _json(value: object, *, indent: int | None = None) -> str:
    """Write JSON as people read it; what would command a terminal, or is no character at all, stays an escape."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _cell(column: Column, item: Json) -> "Text":
    from rich.text import Text

    text = clean((column.short or column.of)(item))
    return coloured(text) if column.stateful else Text(text)


def _print_whole(laid: "RenderableType") -> None:
    """Print a table; where the terminal is too narrow for ids, let it wrap lines rather than cut ids."""
    from rich.measure import Measurement

    terminal = console()
    unlimited = terminal.options.update(max_width=_UNLIMITED)
    terminal.width = max(terminal.width, Measurement.get(terminal, unlimited, laid).minimum)
    terminal.print(laid, crop=False)
