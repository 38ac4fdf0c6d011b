"""Outputs that cannot be written are found out before the work, by every command that writes one."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from edgeq.cli import run_command_line as run
from edgeq.errors import ExitCode


@pytest.fixture
def read_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every folder is one that nothing can be written to, and no command gets as far as its work."""

    def refuse(*_: object, **__: object) -> str:
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    def work(*_: object, **__: object) -> None:
        pytest.fail("the work began")

    monkeypatch.setattr("edgeq.files.tempfile.mkdtemp", refuse)
    for name in (
        "bench.run.run_bench",
        "tune.run.run_tune",
        "validation.run.run_validation",
        "explain.run_explain",
    ):
        monkeypatch.setattr(f"edgeq.pipeline.{name}", work)
    monkeypatch.setattr("edgeq.pipeline.export.run_export", work)
    monkeypatch.setattr("edgeq.runtime.runtime.load", work)


@pytest.mark.parametrize(
    ("line", "option"),
    [
        ("bench B --report ro/x.html", "--report"),
        ("validate B --labels l.tsv --report ro/x.html", "--report"),
        ("export --target cpu --output new --report ro/x.html", "--report"),
        ("export --target cpu --output new --report ro/x.html --dry-run", "--report"),
        ("tune --target cpu --budget cosine=0.99 -o ro/x.yaml", "--output"),
        ("tune --target cpu --budget cosine=0.99 -o ro/x", "--output"),
        ("tune --target cpu --budget cosine=0.99 -o ro/x.yaml --plot ro/x.svg", "--output"),
        ("explain B --plot ro/x.svg", "--plot"),
        ("run B --texts t.txt --output ro/x.npy", "--output"),
    ],
)
@pytest.mark.usefixtures("read_only")
def test_a_folder_that_cannot_be_written(
    line: str,
    option: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "ro").mkdir()
    monkeypatch.chdir(tmp_path)
    assert run(line.split()) == ExitCode.USER
    error = capsys.readouterr().err
    assert "cannot write `ro/x" in error and "is not writable" in error
    assert f"choose another place with {option}" in error
