"""Output: tables and colour on a terminal, tab-separated lines in a pipe, JSON on request.

Some of the text comes from untrusted sources, so control characters are always escaped.
"""

import json
import re
import sys
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, TextIO, TypeAlias

import msgspec
from msgspec.structs import replace

from receiver.cli.streams import encodes_unicode
from receiver.domain.control_characters import escape, escape_json
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
    "cancelled": "yellow",
    "closed": "yellow",
    "finished": "green",
    "ok": "green",
    "warning": "yellow",
}

_COLUMN_GAP = 2  # characters between two columns
_MIN_FOLD_WIDTH = 16  # minimum width of a folded column, if its text is that long
_ID = re.compile(r"[a-z]{3}_[0-9a-z]{25}")
_CUT_ID = 17  # the prefix, the time, and an ellipsis
_MATTERS = 3  # columns up to this rank matter more than the tails of ids
_MAX_WORD = 24  # longer words are broken when text is folded

Cell: TypeAlias = Callable[[Json], object]


class Column(msgspec.Struct, frozen=True, kw_only=True):
    """One column of a table: its title, and how to get its value from an item."""

    title: str
    value: Cell
    short: Cell | None = None  # a shorter value for a terminal
    is_state: bool = False  # coloured by its value
    no_wrap: bool = False  # never folded, so that it can be copied
    is_time: bool = False  # on a terminal the title names the time zone
    rank: int = 1  # a narrow terminal keeps the lowest ranks; 0 is always kept


def column(name: str, title: str | None = None, *, rank: int = 1) -> Column:
    """Return a column for a plain member."""
    return Column(title=title or name.replace("_", " "), value=lambda item: item.get(name), rank=rank)


def id_column(name: str, title: str, *, rank: int = 0) -> Column:
    """Return a column for an id or a name."""
    return Column(title=title, value=lambda item: item.get(name), no_wrap=True, rank=rank)


def state_column(name: str) -> Column:
    """Return a column for a state or status, coloured by its value."""
    return Column(title=name, value=lambda item: item.get(name), is_state=True, no_wrap=True, rank=0)


def time_column(name: str, title: str, *, rank: int = 1) -> Column:
    """Return a column for a time: local time on a terminal, the API's form in a pipe."""
    return Column(
        title=title,
        value=lambda item: item.get(name),
        short=lambda item: format_local_time(item.get(name)),
        no_wrap=True,
        is_time=True,
        rank=rank,
    )


def is_terminal(stream: TextIO | None = None) -> bool:
    """Return whether *stream* (default: stdout) is a terminal."""
    return (stream or sys.stdout).isatty()


def console(stream: TextIO | None = None) -> "Console":
    """Return a console for rich output, which respects NO_COLOR and TERM."""
    from rich.console import Console

    return Console(file=stream or sys.stdout, highlight=False, emoji=False, markup=False)


def clean(value: object) -> str:
    """Format a value on one line, with control characters escaped."""
    text = "" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = text.rstrip("\r\n")
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else " " if c in "\t\r\n" else escape(c) for c in text)


def format_local_time(timestamp: object) -> str:
    """Format a timestamp of the API in local time, for a column whose title names the zone."""
    return _format_time(timestamp, "%m-%d %H:%M:%S")


def format_zoned_time(timestamp: object) -> str:
    """Format a timestamp of the API in local time, with its zone."""
    return _format_time(timestamp, "%Y-%m-%d %H:%M:%S %Z")


def local_zone() -> str:
    """Return the name of the local time zone, such as CET."""
    return time.strftime("%Z")


def _format_time(timestamp: object, form: str) -> str:
    if not isinstance(timestamp, str):
        return ""
    try:
        return datetime.fromisoformat(timestamp).astimezone().strftime(form)
    except ValueError:
        return clean(timestamp)


def to_json(value: object, *, indent: int | None = None) -> str:
    """Serialize readable JSON. Control characters are escaped, and so is what stdout cannot encode."""
    return escape_json(json.dumps(value, indent=indent, ensure_ascii=not encodes_unicode()))


def print_json(value: object) -> None:
    """Print a value as JSON."""
    sys.stdout.write(to_json(value, indent=2) + "\n")


def print_json_line(value: object) -> None:
    """Print a value as one line of JSON, and flush."""
    sys.stdout.write(to_json(value) + "\n")
    sys.stdout.flush()


def print_line(*cells: object) -> None:
    """Print one line of tab-separated cells, and flush."""
    sys.stdout.write("\t".join(clean(cell) for cell in cells) + "\n")
    sys.stdout.flush()


def notice(text: str) -> None:
    """Print a note to stderr."""
    sys.stderr.write(clean(text) + "\n")
    sys.stderr.flush()


def table(columns: Sequence[Column], items: Iterable[Json], *, empty: str) -> None:
    """Print items as a table, or in a pipe as tab-separated lines without a header."""
    if not is_terminal():
        for item in items:
            print_line(*(column.value(item) for column in columns))
        return
    rows = list(items)
    if not rows:
        notice(empty)
        return
    terminal = console()
    result = layout(columns, rows, terminal.width)
    # If even the required columns are too wide, the terminal wraps the lines and no id is cut.
    terminal.width = max(terminal.width, result.width)
    terminal.print(result.grid, crop=False)
    if result.omitted:
        notice(f"Columns that did not fit: {', '.join(result.omitted)}. Use --json to see all.")
    if result.are_ids_cut:
        notice("IDs are cut. The shell completes them; --json and a wider terminal show them whole.")


class TableLayout(msgspec.Struct, frozen=True, kw_only=True):
    """A table for a terminal, its width, and the titles of the columns that did not fit."""

    grid: "RenderableType"
    width: int
    omitted: Sequence[str]
    are_ids_cut: bool = False


def layout(columns: Sequence[Column], items: Sequence[Json], available: int) -> TableLayout:
    """Lay out items for a terminal of the *available* width; empty columns are omitted.

    If a column that matters would not fit, ids lose their tails.
    """
    cells = {column: [_cell(column, item) for item in items] for column in columns}
    whole = _lay_out(cells, available)
    cut = _lay_out({column: [_cut_id(text) for text in texts] for column, texts in cells.items()}, available)
    is_better = _lost_ranks(cut, columns) > _lost_ranks(whole, columns)
    return replace(cut, are_ids_cut=True) if is_better else whole


def _lost_ranks(laid: TableLayout, columns: Sequence[Column]) -> list[int]:
    """Return the ranks of the columns that matter and did not fit. The greater, the less is lost."""
    lost = (column.rank for column in columns if column.title in laid.omitted and column.rank <= _MATTERS)
    return [*sorted(lost), _MATTERS + 1]


def _cut_id(cell: "Text") -> "Text":
    if not _ID.fullmatch(cell.plain):
        return cell
    cut = cell.copy()
    cut.truncate(_CUT_ID, overflow="ellipsis")
    return cut


def _lay_out(cells: Mapping[Column, Sequence["Text"]], available: int) -> TableLayout:
    from rich.table import Table

    filled = [column for column, texts in cells.items() if any(text.plain for text in texts)]
    widths = _choose_widths({column: _width_range(column, cells[column]) for column in filled}, available)
    grid = Table(box=None, header_style="bold", padding=(0, _COLUMN_GAP, 0, 0), pad_edge=False)
    for column, width in widths.items():
        grid.add_column(_title(column), overflow="fold", width=width)
    for row in zip(*(cells[column] for column in widths), strict=True):
        grid.add_row(*row)
    omitted = [column.title for column in filled if column not in widths]
    return TableLayout(grid=grid, width=_total_width(widths.values()), omitted=omitted)


def _title(column: Column) -> str:
    return f"{column.title.upper()} ({local_zone()})" if column.is_time else column.title.upper()


def _width_range(column: Column, cells: Sequence["Text"]) -> tuple[int, int]:
    """Return the minimum and the ideal width of a column."""
    title = len(_title(column))
    ideal = max(title, *(cell.cell_len for cell in cells))
    if column.no_wrap:
        return ideal, ideal
    word = max(len(word) for cell in cells for word in cell.plain.split(" "))
    return max(title, min(ideal, _MIN_FOLD_WIDTH), min(word, _MAX_WORD)), ideal


def _choose_widths(ranges: Mapping[Column, tuple[int, int]], available: int) -> Mapping[Column, int]:
    """Choose the columns that fit, lowest ranks first, and share the spare width among them."""
    chosen: dict[Column, int] = {}
    ranked = sorted(ranges, key=lambda column: column.rank)
    for column in ranked:
        minimum, _ = ranges[column]
        if column.rank == 0 or _total_width([*chosen.values(), minimum]) <= available:
            chosen[column] = minimum
    spare = max(0, available - _total_width(chosen.values()))
    for column, minimum in chosen.items():
        extra = min(spare, ranges[column][1] - minimum)
        chosen[column] += extra
        spare -= extra
    return {column: chosen[column] for column in ranges if column in chosen}


def _total_width(widths: Collection[int]) -> int:
    return sum(widths) + _COLUMN_GAP * (len(widths) - 1)


def page(columns: Sequence[Column], answer: Json, *, as_json: bool, empty: str) -> None:
    """Print one page of an API list, and the option for the next page."""
    if as_json:
        print_json(answer)
        return
    table(columns, answer["items"], empty=empty)
    if answer.get("next") and is_terminal():
        notice(f"More results: --cursor {answer['next']}")


def details(pairs: Iterable[tuple[str, object]]) -> None:
    """Print named values, one per line, without the empty ones."""
    shown = [(name, value) for name, value in pairs if value not in (None, "", {}, [])]
    if not is_terminal():
        for name, value in shown:
            print_line(name, value)
        return
    from rich.text import Text

    width = max((len(name) for name, _ in shown), default=0) + 2
    for name, value in shown:
        # Not a table, because a folded path or URL cannot be copied.
        console().print(Text.assemble((name.ljust(width), "bold"), coloured(clean(value))), soft_wrap=True)


def local_time(timestamp: object) -> object:
    """Return local time with its zone on a terminal, and the API's form in a pipe."""
    return format_zoned_time(timestamp) if is_terminal() else timestamp


def coloured(text: str) -> "Text":
    """Return a state or status in its colour."""
    from rich.text import Text

    return Text(text, style=_STYLES.get(text, ""))


def _cell(column: Column, item: Json) -> "Text":
    from rich.text import Text

    text = clean((column.short or column.value)(item))
    return coloured(text) if column.is_state else Text(text)
