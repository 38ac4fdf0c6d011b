"""The cache is listed and cleared; what edgeq did not put there stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeq.caches import cache_entries, cache_folder, clear, notice_unusable
from edgeq.cli import run_command_line as run
from edgeq.errors import ExitCode, OutputError


def test_only_what_is_edgeqs_is_listed_and_removed(tmp_path: Path) -> None:
    for name in ("calibration", "arm64-onnxruntime-1.0", "Documents", "calibrations"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_bytes(b"12345")
    (tmp_path / "tune").symlink_to(tmp_path / "Documents")
    entries = cache_entries(tmp_path)
    assert [(entry.name, entry.files, entry.size_bytes) for entry in entries] == [
        ("arm64-onnxruntime-1.0", 1, 5),
        ("calibration", 1, 5),
    ]
    clear(entries)
    assert cache_entries(tmp_path) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["Documents", "calibrations", "tune"]
    assert (tmp_path / "Documents" / "file").read_bytes() == b"12345"


def test_no_folder_is_an_empty_cache(tmp_path: Path) -> None:
    assert cache_entries(tmp_path / "none") == []


@pytest.mark.parametrize(
    ("variable", "end"), [("EDGEQ_CACHE", ""), ("EDGEQ_CACHE", "/below"), ("XDG_CACHE_HOME", "")]
)
def test_a_file_is_no_cache_folder(
    variable: str, end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.delenv("EDGEQ_CACHE", raising=False)
    monkeypatch.setenv(variable, f"{tmp_path}/file{end}")
    with pytest.raises(OutputError, match=f"{variable} asks for .*file.* is a file"):
        cache_folder()


@pytest.mark.parametrize("command", [["cache"], ["doctor"]])
def test_commands_name_the_variable(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("EDGEQ_CACHE", str(tmp_path / "file"))
    assert run(command) == ExitCode.USER
    assert "EDGEQ_CACHE asks for the cache folder" in capsys.readouterr().err


def test_caches_that_share_a_folder_share_the_notice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeq.caches._said", set())
    monkeypatch.setenv("EDGEQ_CACHE", str(tmp_path))
    log: list[str] = []
    for name in ("tune", "calibration"):
        notice_unusable(PermissionError(13, "Permission denied", name), log.append)
    [notice] = log
    assert notice == (
        f"going on without a cache: `{tmp_path}` cannot be used (Permission denied); "
        "EDGEQ_CACHE can name another folder"
    )
