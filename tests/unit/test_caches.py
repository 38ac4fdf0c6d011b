"""The cache is listed and cleared; what edgeq did not put there stays."""

from __future__ import annotations

from pathlib import Path

from edgeq.caches import cache_entries, clear


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
