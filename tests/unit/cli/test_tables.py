"""Tables at any width: no word broken, no line too long, no cell lost; and lines of long stages."""

from __future__ import annotations

import io
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from edgeq.cli.heartbeat import Heartbeat
from edgeq.cli.output import Out
from edgeq.cli.tables import column_widths, named_lines, print_table, width_of

COLUMNS = ("variant", "runs on", "size", "verification")
ROWS = [
    ("cpu-int8", "ONNX Runtime, CPU", "23.02 MB", "executed-other-arch"),
    ("nnapi-int8", "ONNX Runtime, NNAPI", "", "executed-arm64-emulated, twice"),
]
WORDS = {word for row in (COLUMNS, *ROWS) for cell in row for word in cell.split()}


def _printed(width: int, columns: Any = COLUMNS, rows: Any = ROWS) -> str:
    stream = io.StringIO()
    print_table(Console(file=stream, width=width), "A table", columns, rows)
    return stream.getvalue()


@pytest.mark.parametrize("width", [40, 60, 66, 80, 120])
def test_no_word_is_broken_and_no_line_is_too_long(width: int) -> None:
    shown = _printed(width)
    assert max(map(cell_len, shown.splitlines())) <= width
    assert set(shown.split()) >= WORDS


def test_any_table_at_any_width() -> None:
    rng = random.Random(3)
    for _ in range(200):
        count = rng.randint(1, 7)
        words = ["x" * rng.randint(1, 14) for _ in range(30)]
        cells = [[" ".join(rng.choices(words, k=rng.randint(0, 5))) for _ in range(count)] for _ in range(4)]
        width = rng.randint(12, 90)
        widths = column_widths(cells[0], cells[1:], width)
        if widths is None:
            continue
        shown = _printed(width, cells[0], cells[1:])
        assert max(map(cell_len, shown.splitlines())) <= width
        assert set(shown.split()) >= {word for row in cells for cell in row for word in cell.split()}


def test_words_of_indented_cells_are_not_broken_either() -> None:
    rows = [("cpu", "x" * 40), ("  avx512_vnni", "no: int8 dot product"), ("  a\n   second_line", "yes")]
    checked = 0
    for width in range(40, 80):
        if column_widths(("this", ""), rows, width) is not None:
            checked += 1
            shown = _printed(width, ("this", ""), rows).split()
            assert {"avx512_vnni", "second_line", "x" * 40} <= set(shown), width
    assert checked > 5


def test_a_word_longer_than_the_line_stays_whole() -> None:
    """Half a path cannot be copied."""
    path = "/a/folder/" + "x" * 60
    assert named_lines([("file", f"in {path} (2 kB)")], 40) == f"file  in\n      {path}\n      (2 kB)"
    assert path in _printed(40, ("name", "file"), [("model", path)]).split()


@pytest.mark.parametrize("width", [40, 160])
def test_a_title_is_as_wide_as_it_needs(width: int) -> None:
    """A small table has the path of a model for its title."""
    path = "/a/long/folder/" + "site-packages/" * 12
    stream = io.StringIO()
    print_table(Console(file=stream, width=width), f"{path} (bert, fill-mask)", ["a"], [["b"]])
    assert stream.getvalue().splitlines()[0].startswith(path)
    stream = io.StringIO()
    print_table(Console(file=stream, width=width), "medians, and the ratio", ["a"], [["b"]])
    assert stream.getvalue().splitlines()[0] == "medians, and the ratio"


def test_rich_alone_would_break_them() -> None:
    """The negative twin: what these tests look for does happen."""
    from rich.table import Table

    table = Table()
    for column in COLUMNS:
        table.add_column(column, overflow="fold")
    for row in ROWS:
        table.add_row(*row)
    stream = io.StringIO()
    Console(file=stream, width=40).print(table)
    assert not set(stream.getvalue().replace("│", " ").split()) >= WORDS


def test_columns_is_honoured_when_piped(tiny_bundle: Path) -> None:
    command = [sys.executable, "-m", "edgeq", "inspect", str(tiny_bundle), "--full"]
    for width in ("60", "100"):
        environment = {**os.environ, "NO_COLOR": "1", "COLUMNS": width}
        shown = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
        assert max(map(len, shown.splitlines())) <= int(width)
        assert {"executed-other-arch", "last_hidden_state", "NnapiExecutionProvider"} & set(shown.split())


def test_width_comes_from_the_environment_or_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    assert width_of(False) == width_of(True) == 60
    for nonsense in ("", "0", "wide", "-3"):
        monkeypatch.setenv("COLUMNS", nonsense)
        assert width_of(False) is None


class _Stage:
    title, seconds = "comparing: 96 rows", 3.2

    def so_far(self) -> str:
        return "comparing: 12 of 96, 2 s so far"


def _beats(silence_s: float) -> list[str]:
    stream = io.StringIO()
    beat = Heartbeat(Console(file=stream, width=200), str, silence_s)
    beat.start()
    with beat.during(_Stage()):
        time.sleep(0.35)
    beat.stop()
    return stream.getvalue().splitlines()


def test_a_long_stage_says_where_it_is() -> None:
    assert _beats(0.1)[:2] == ["  comparing: 12 of 96, 2 s so far"] * 2
    assert _beats(0.1)[-1] == "  comparing: 96 rows (3.2 s)"


def test_a_short_stage_says_only_that_it_is_over() -> None:
    assert _beats(30.0) == ["  comparing: 96 rows (3.2 s)"]


def test_a_stage_that_fails_is_not_said_to_be_over() -> None:
    stream = io.StringIO()
    beat = Heartbeat(Console(file=stream, width=200), str, 30.0)
    beat.start()
    with pytest.raises(ValueError, match="no"), beat.during(_Stage()):
        raise ValueError("no")
    beat.stop()
    assert stream.getvalue() == ""


def test_stages_of_out_count(capsys: pytest.CaptureFixture[str]) -> None:
    with Out().progress() as progress, progress.stage("measuring", 3) as stage:
        stage.advance(2)
        assert stage.so_far().startswith("measuring: 2 of 3, 0 s")
        stage.note = "alpha 0.8: held-out error 0.0123"
        assert stage.so_far().startswith("measuring: alpha 0.8: held-out error 0.0123, 0 s")
        stage.note = "fine"
    assert "measuring: fine (0." in capsys.readouterr().err
