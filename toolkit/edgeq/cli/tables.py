"""Tables that never break a word: columns where they fit, one line per cell where they do not."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

PIPE_WIDTH = 160
"""Columns of a table that no terminal limits."""
_LEAST_VALUE = 16
"""Characters a value gets beside its name, however narrow the terminal is."""
_WORD = re.compile(r"^\s*\S+|\S+", re.MULTILINE)


def width_of(is_terminal: bool) -> int | None:
    """The width to print at: of the terminal or `COLUMNS`; None where neither says.

    Args:
        is_terminal: whether the stream is one.
    """
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns) > 0:
        return int(columns)
    if not is_terminal:
        return None
    import shutil

    return shutil.get_terminal_size().columns


def print_table(
    console: Console, title: str | None, columns: Sequence[str], rows: Sequence[Sequence[str]]
) -> None:
    """Print rows of cells, at the console's width; cells are plain text."""
    widths = column_widths(columns, rows, console.width)
    if widths is None:
        text = stacked(title, columns, rows, console.width)
        console.print(text, markup=False, soft_wrap=True)
        return
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    if title is not None:
        # Not as the table's own, which would be folded to its width, in the middle of paths.
        console.print(_wrapped(title, console.width), style="bold", markup=False, soft_wrap=True)
    table = Table(box=box.SIMPLE_HEAD)
    for index, (column, width) in enumerate(zip(columns, widths, strict=True)):
        justify = "right" if _is_numeric([row[index] for row in rows]) else "left"
        table.add_column(escape(column), justify=justify, overflow="fold", width=width)  # type: ignore[arg-type]
    for row in rows:
        table.add_row(*map(escape, row))
    console.print(table)


def column_widths(
    columns: Sequence[str], rows: Sequence[Sequence[str]], width: int
) -> tuple[int, ...] | None:
    """Widths at which no word is broken, summing to at most what `width` leaves; None where there are none.

    Every column has its longest word; what is left goes first to the columns that lack least, so that one long column
    does not fold all others.
    """
    cells = [[column, *(row[index] for row in rows)] for index, column in enumerate(columns)]
    wanted = [max(map(_cell_len, column)) for column in cells]
    widths = [max(map(_longest_word, column)) for column in cells]
    # Two of padding and one of a divider per column, and an edge.
    left = width - 3 * len(columns) - 1 - sum(widths)
    if left < 0:
        return None
    for index in sorted(range(len(widths)), key=lambda i: wanted[i] - widths[i]):
        more = min(left, wanted[index] - widths[index])
        widths[index] += more
        left -= more
    return tuple(widths)


def stacked(title: str | None, columns: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> str:
    """Rows as blocks of `name  value` lines, empty cells left out."""
    blocks = [named_lines(list(zip(columns, row, strict=True)), width, indent=1) for row in rows]
    return "\n\n".join(filter(None, [title, *blocks])) + "\n"


def named_lines(
    items: Sequence[tuple[str, str]], width: int | None, *, indent: int = 0, name: int = 0
) -> str:
    """`name  value` lines, values wrapped at words and indented below their beginning.

    Args:
        items: names and values; those without a value are left out.
        width: characters of a line, more where a single word has more; None does not wrap.
        indent: spaces before names.
        name: least width of names; that of the longest where it is longer.
    """
    import textwrap

    shown = [(key, value) for key, value in items if value]
    name = max([name, *(len(key) + 2 for key, _ in shown)])
    lines = []
    for key, value in shown:
        head = " " * indent + f"{key:<{name}}"
        if width is None:
            lines.append(head + value)
            continue
        room = max(width, len(head) + _LEAST_VALUE)
        lines += textwrap.wrap(
            value,
            room,
            initial_indent=head,
            subsequent_indent=" " * len(head),
            break_on_hyphens=False,
            break_long_words=False,
        )
    return "\n".join(lines)


def _wrapped(text: str, width: int) -> str:
    """Lines of whole words, longer than `width` where a single word is."""
    import textwrap

    return textwrap.fill(text, width, break_on_hyphens=False, break_long_words=False)


def _is_numeric(cells: Sequence[str]) -> bool:
    """Numbers (cells that start with a digit or sign) align right."""
    return bool(cells) and all(not cell or cell[:1] in "0123456789+-.<>~" for cell in cells)


def _longest_word(text: str) -> int:
    """As rich breaks lines: spaces before the first word of one stay with it."""
    return max(map(_cell_len, _WORD.findall(text)), default=0)


def _cell_len(text: str) -> int:
    from rich.cells import cell_len

    return cell_len(text)
