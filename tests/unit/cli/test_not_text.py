"""Files and streams that are no text are refused in the same words, whichever command reads them."""

from __future__ import annotations

import io
import os
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgeq.cli import run_command_line as run
from edgeq.errors import ExitCode
from edgeq.tasks.labelled import read_cells

LATIN1 = "1\tplain\ttext\n2\tun caf\u00e9\tnoir\n".encode("latin-1")
NOT_UTF8 = "is not UTF-8: byte 0xe9 at position"


@pytest.mark.parametrize("line", ["validate B --labels f.txt", "run B --texts f.txt --output v.npy"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (LATIN1, f"line 2 of `f.txt` {NOT_UTF8}"),
        ("1\ta\tb\n".encode("utf-16"), "`f.txt` is UTF-16, expected UTF-8"),
        (b"\x1f\x8b" + bytes(20), "`f.txt` is a gzip archive, expected text"),
        (b"", "`f.txt` is empty"),
        (None, "there is no file `f.txt`"),
        ("folder", "`f.txt` is a folder, expected a text file"),
    ],
)
def test_files(
    line: str,
    content: bytes | str | None,
    message: str,
    tiny_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    if isinstance(content, bytes):
        Path("f.txt").write_bytes(content)
    elif content is not None:
        Path("f.txt").mkdir()
    assert run([str(tiny_bundle) if word == "B" else word for word in line.split()]) == ExitCode.USER
    error = capsys.readouterr().err
    assert message in error
    assert ("iconv" in error) is ("UTF" in message)
    assert "codec" not in error and "Errno" not in error


def test_stdin(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(LATIN1)))
    assert run(["run", str(tiny_bundle), "--text", "-"]) == ExitCode.USER
    error = capsys.readouterr().err
    assert f"line 2 of stdin {NOT_UTF8} 9" in error and "iconv" in error


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_labels_may_come_through_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(b"\xef\xbb\xbf1\ta\tb\n\n\tc\n",))
    writer.start()
    assert read_cells(pipe) == [(1, ["1", "a", "b"]), (3, ["", "c"])]
    writer.join()


def test_lines_of_run_may_be_long(tmp_path: Path) -> None:
    from edgeq.pipeline.batch_run import read_samples

    path = tmp_path / "long.txt"
    path.write_text("word " * 300_000 + "\nshort\n")
    assert [len(sample.texts[0]) for sample in read_samples(path)] == [1_500_000, 5]
