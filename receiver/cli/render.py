"""How things look: tables and colour on a terminal, tab-separated lines in a pipe, JSON where asked for.

What is shown comes from strangers in part, so nothing that could command a terminal ever reaches it.
"""

import json
import re
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, TextIO, TypeAlias

from receiver.domain.model import Json

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
_COLUMN_GAP = 2  # columns of the terminal between two of a table's
_MIN_FOLD_WIDTH = 16  # text is folded into no less, where it has as much
_MAX_WORD = 24  # longer ones are broken where text is folded

Cell: TypeAlias = Callable[[Json], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column of a table: its title, and where its text is found in an item."""

    title: str
    value: Cell
    short: Cell | None = None  # what a terminal shows instead, where space is dear
    is_state: bool = False  # coloured by what it says
    no_wrap: bool = False  # never folded, so that it can be copied
    rank: int = 1  # on a narrow terminal those of the lowest rank come first; 0 is never left out


def column(name: str, title: str | None = None, *, rank: int = 1) -> Column:
    """Make a column of a plain member."""
    return Column(title=title or name.replace("_", " "), value=lambda item: item.get(name), rank=rank)


def id_column(name: str, title: str, *, rank: int = 0) -> Column:
    """Make a column of an id."""
    return Column(title=title, value=lambda item: item.get(name), no_wrap=True, rank=rank)


def state_column(name: str) -> Column:
    """Make a column of a state or status, coloured by what it says."""
    return Column(title=name, value=lambda item: item.get(name), is_state=True, no_wrap=True, rank=0)


def time_column(name: str, title: str, *, rank: int = 1) -> Column:
    """Make a column of a moment: local time on a terminal, as the API writes it in a pipe."""
    return Column(
        title=title,
        value=lambda item: item.get(name),
        short=lambda item: format_local_time(item.get(name)),
        no_wrap=True,
        rank=rank,
    )


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


def format_local_time(timestamp: object) -> str:
    """Write a moment of the API's in this machine's own time."""
    if not isinstance(timestamp, str):
        return ""
    try:
        return datetime.fromisoformat(timestamp).astimezone().strftime("%m-%d %H:%M:%S")
    except ValueError:
        return clean(timestamp)


def print_json(value: object) -> None:
    """Print a value as JSON."""
    sys.stdout.write(_dump_json(value, indent=2) + "\n")


def print_json_line(value: object) -> None:
    """Print a value as one line of JSON, at once."""
    sys.stdout.write(_dump_json(value) + "\n")
    sys.stdout.flush()


def print_line(*cells: object) -> None:
    """Print one plain line, its cells tab-separated, at once."""
    sys.stdout.write("\t".join(clean(cell) for cell in cells) + "\n")
    sys.stdout.flush()


def notice(text: str) -> None:
    """Tell a person something beside the output proper."""
    sys.stderr.write(clean(text) + "\n")
    sys.stderr.flush()


def table(columns: Sequence[Column], items: Iterable[Json], *, empty: str) -> None:
    """Print items as a table, or in a pipe as tab-separated lines without a head."""
    if not is_terminal():
        for item in items:
            print_line(*(column.value(item) for column in columns))
        return
    rows = list(items)
    if not rows:
        notice(empty)
        return
    terminal = console()
    laid = layout(columns, rows, terminal.width)
    # Where not even what must stay has room, the terminal wraps the lines, and no id is cut.
    terminal.width = max(terminal.width, laid.width)
    terminal.print(laid.grid, crop=False)
    if laid.omitted:
        notice(f"There was no room for: {', '.join(laid.omitted)}. --json has all.")


@dataclass(frozen=True, slots=True, kw_only=True)
class TableLayout:
    """A table for a terminal: how wide it is, and the titles of the columns there was no room for."""

    grid: "RenderableType"
    width: int
    omitted: Sequence[str]


def layout(columns: Sequence[Column], items: Sequence[Json], available: int) -> TableLayout:
    """Lay items out for a terminal so wide; a column with nothing in it is left out."""
    from rich.table import Table

    cells = {column: [_cell(column, item) for item in items] for column in columns}
    told = [column for column in columns if any(cell.plain for cell in cells[column])]
    widths = _choose_widths({column: _width_range(column, cells[column]) for column in told}, available)
    grid = Table(box=None, header_style="bold", padding=(0, _COLUMN_GAP, 0, 0), pad_edge=False)
    for column, width in widths.items():
        grid.add_column(column.title.upper(), overflow="fold", width=width)
    for row in zip(*(cells[column] for column in widths), strict=True):
        grid.add_row(*row)
    left_out = [column.title for column in told if column not in widths]
    return TableLayout(grid=grid, width=_total_width(widths.values()), omitted=left_out)


def _width_range(column: Column, cells: Sequence["Text"]) -> tuple[int, int]:
    """Tell how narrow a column may be, and how wide it is at its best."""
    title = len(column.title)
    best = max(title, *(cell.cell_len for cell in cells))
    if column.no_wrap:
        return best, best
    word = max(len(word) for cell in cells for word in cell.plain.split(" "))
    return max(title, min(best, _MIN_FOLD_WIDTH), min(word, _MAX_WORD)), best


def _choose_widths(spans: Mapping[Column, tuple[int, int]], available: int) -> Mapping[Column, int]:
    """Choose the columns there is room for, those of the lowest rank first, and share what is left among them."""
    chosen: dict[Column, int] = {}
    ranked = sorted(spans, key=lambda column: column.rank)
    for column in ranked:
        least, _ = spans[column]
        if column.rank == 0 or _total_width([*chosen.values(), least]) <= available:
            chosen[column] = least
    left = max(0, available - _total_width(chosen.values()))
    for column, least in chosen.items():
        more = min(left, spans[column][1] - least)
        chosen[column] += more
        left -= more
    return {column: chosen[column] for column in spans if column in chosen}


def _total_width(widths: Collection[int]) -> int:
    return sum(widths) + _COLUMN_GAP * (len(widths) - 1)


def page(columns: Sequence[Column], answer: Json, *, as_json: bool, empty: str) -> None:
    """Print one page of a list of the API's, and how to get the next."""
    if as_json:
        print_json(answer)
        return
    table(columns, answer["items"], empty=empty)
    if answer.get("next") and is_terminal():
        notice(f"There is more: --cursor {answer['next']}")


def details(pairs: Iterable[tuple[str, object]]) -> None:
    """Print named values, one a line; empty ones are left out."""
    shown = [(name, value) for name, value in pairs if value not in (None, "", {}, [])]
    if not is_terminal():
        for name, value in shown:
            print_line(name, value)
        return
    from rich.text import Text

    width = max((len(name) for name, _ in shown), default=0) + 2
    for name, value in shown:
        # Not a table: a path or a URL that was folded could not be copied.
        console().print(Text.assemble((name.ljust(width), "bold"), coloured(clean(value))), soft_wrap=True)


def local_time(timestamp: object) -> object:
    """Give a moment the way its reader wants it: local time on a terminal, as the API wrote it in a pipe."""
    return format_local_time(timestamp) if is_terminal() else timestamp


def coloured(text: str) -> "Text":
    """Give a word the colour of what it says."""
    from rich.text import Text

    return Text(text, style=_STYLES.get(text, ""))


def _dump_json(value: object, *, indent: int | None = None) -> str:
    """Write JSON as people read it; what would command a terminal, or is no character at all, stays an escape."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _cell(column: Column, item: Json) -> "Text":
    from rich.text import Text

    text = clean((column.short or column.value)(item))
    return coloured(text) if column.is_state else Text(text)
