"""Where output goes: data to stdout, everything for people (progress, tables, notices, errors) to stderr."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Self

from edgeq.bundle.codec import finite
from edgeq.cli.heartbeat import Heartbeat
from edgeq.cli.tables import PIPE_WIDTH, print_table, width_of

if TYPE_CHECKING:
    from rich.console import Console

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def stderr_console(width: int | None = None) -> Console:
    """A console on stderr; plain text without a terminal or with NO_COLOR."""
    from rich.console import Console

    return Console(
        stderr=True, highlight=False, soft_wrap=width is None and not sys.stderr.isatty(), width=width
    )


def print_error(message: str, hint: str | None) -> None:
    """`error: ...` and `hint: ...` on stderr."""
    colored = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    red, cyan, off = ("\033[1;31m", "\033[36m", "\033[0m") if colored else ("", "", "")
    print(f"{red}error:{off} {printable(message)}", file=sys.stderr)
    if hint:
        print(f"\n{cyan}hint:{off} {printable(hint)}", file=sys.stderr)


def printable(text: str) -> str:
    """Text without control characters: names come from models and bundles of strangers, and terminals obey."""
    return _CONTROL.sub("\ufffd", text)


class Out:
    """One command's output.

    Args:
        json_mode: `result` prints its document to stdout and nothing else goes there.
        quiet: no notices, tables or progress (errors and `result` remain).
    """

    documents: ClassVar[int] = 0
    """JSON documents printed by this command line."""

    def __init__(self, *, json_mode: bool = False, quiet: bool = False) -> None:
        self.json_mode = json_mode
        self.quiet = quiet
        self.console = stderr_console()

    def notice(self, message: str) -> None:
        """One line for the person at the terminal (stderr)."""
        if not self.quiet:
            self.console.print(printable(message), markup=False)

    def warn(self, message: str) -> None:
        """Something the user can act on (stderr, also when quiet)."""
        self.console.print(f"[yellow]warning:[/] {_escape(message)}")

    def result(self, document: Any, text: str | None = None) -> None:
        """The command's data on stdout: the JSON document (null for NaN and infinities), or `text` for people."""
        if self.json_mode:
            print(json.dumps(finite(document), indent=2, allow_nan=False))
            Out.documents += 1
        elif text is not None:
            print(printable(text))

    def text(self, text: str) -> None:
        """Lines beside the tables of a listing, on stdout; with --json `result` carries them."""
        if not self.json_mode and not self.quiet:
            print(printable(text))

    @property
    def width(self) -> int | None:
        """Columns of stdout: of the terminal or `COLUMNS`; None where neither limits them."""
        return width_of(sys.stdout.isatty())

    def table(self, title: str | None, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """The answer of a command that was asked for a listing, on stdout; with --json `result` carries it."""
        if not self.json_mode and not self.quiet:
            from rich.console import Console

            console = Console(highlight=False, width=self.width or PIPE_WIDTH)
            _print_table(console, title, columns, rows)

    def report(self, title: str | None, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table that tells how work went, on stderr: stdout is left to the work's result."""
        if not self.quiet:
            width = width_of(self.console.is_terminal)
            _print_table(stderr_console(width or PIPE_WIDTH), title, columns, rows)

    @contextmanager
    def progress(self) -> Iterator[Progress]:
        """Stages with a bar, an elapsed time and, where the total is known, the time left."""
        with Progress(self, enabled=not self.quiet) as progress:
            yield progress


class Progress:
    """Named stages on stderr: bars on a terminal; elsewhere a line as each ends, and one at least every 10 s."""

    def __init__(self, out: Out, *, enabled: bool) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as RichProgress

        self._out = out
        self._console = console = out.console
        self._live = enabled and console.is_terminal
        self._lines = Heartbeat(console, printable) if enabled and not self._live else None
        self._bars = RichProgress(
            SpinnerColumn(finished_text="[green]✓[/]"),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            disable=not self._live,
        )

    def __enter__(self) -> Self:
        self._bars.start()
        if self._lines is not None:
            self._lines.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()
        if self._lines is not None:
            self._lines.stop()

    @contextmanager
    def stage(self, description: str, total: int | None = None) -> Iterator[Stage]:
        """One stage; `stage.advance()` moves its bar, `stage.note` says what came of it."""
        task = self._bars.add_task(description, total=total)
        stage = Stage(self, task, description, total)
        if self._lines is None:
            yield stage
        else:
            with self._lines.during(stage):
                yield stage
        done = total or max(stage.done, 1)
        self._bars.update(task, description=stage.title, total=done, completed=done)

    def notice(self, message: str) -> None:
        """One line above the bars."""
        self._out.notice(message)

    def _advance(self, task: Any, count: int) -> None:
        self._bars.advance(task, count)


class Stage:
    """A running stage."""

    def __init__(self, progress: Progress, task: Any, description: str, total: int | None) -> None:
        self._progress = progress
        self._task = task
        self._description = description
        self._total = total
        self._started = time.perf_counter()
        self.note = ""
        self.done = 0

    def advance(self, count: int = 1) -> None:
        """Move the bar by `count`."""
        self.done += count
        self._progress._advance(self._task, count)

    @property
    def title(self) -> str:
        """What it does, and what came of it."""
        return f"{self._description}: {self.note}" if self.note else self._description

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.perf_counter() - self._started

    def so_far(self) -> str:
        """A line of a stage that is not over: `calibrating: 96 of 256, 40 s so far`, or what it does now instead."""
        counted = f"{self.done} of {self._total}" if self._total else ""
        now = self.note or counted
        return f"{self._description}: {f'{now}, ' if now else ''}{self.seconds:.0f} s so far"


def _print_table(
    console: Console, title: str | None, columns: Sequence[str], rows: Sequence[Sequence[str]]
) -> None:
    title = None if title is None else printable(title)
    names = [printable(column) for column in columns]
    print_table(console, title, names, [[printable(cell) for cell in row] for row in rows])


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(printable(text))
