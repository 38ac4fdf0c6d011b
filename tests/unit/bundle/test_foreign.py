"""A model given where a bundle is wanted is named, with the command that makes a bundle of it."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest

from edgeq.bundle.foreign import foreign_kind
from edgeq.bundle.reader import open_bundle
from edgeq.cli import run_command_line
from edgeq.errors import ExitCode, IntegrityError

FILES = {
    "model.gguf": (b"GGUF\x03\x00\x00\x00", "a GGUF file", "--target android"),
    "blob": (b"GGUF\x03\x00\x00\x00", "a GGUF file", "--target android"),
    "cut.gguf": (b"", "named .gguf and no GGUF file", "download it again"),
    "model.onnx": (b"\x08\x07", "an ONNX file", "--target android"),
    "model.safetensors": (b"\x08" + bytes(7) + b"{}", "a file of weights", "config.json"),
}


@pytest.mark.parametrize("name", FILES)
def test_files_are_named(name: str, tmp_path: Path) -> None:
    data, title, advice = FILES[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(IntegrityError, match=f"is {title}, not a bundle") as refused:
        open_bundle(tmp_path / name)
    assert refused.value.hint is not None and advice in refused.value.hint


def test_a_checkpoint_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(IntegrityError, match="is a model's folder"):
        open_bundle(tmp_path)
    (tmp_path / "edgeq.json").write_text("{}")
    assert foreign_kind(tmp_path) is None


def test_archives_under_any_name_and_broken_ones_are_not_foreign(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "renamed.bin", "w"):
        pass
    (tmp_path / "broken.edgeq").write_bytes(b"GG")
    assert foreign_kind(tmp_path / "renamed.bin") is None and foreign_kind(tmp_path / "broken.edgeq") is None


def test_what_is_neither_file_nor_folder_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    assert foreign_kind(tmp_path / "pipe.gguf") is None and foreign_kind(tmp_path / "none.gguf") is None


@pytest.mark.parametrize(
    "command",
    ["inspect {}", "run {} --text a", "validate {}", "bench {}", "explain {}", "check {} --target android"],
)
def test_every_command_says_it(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF\x03\x00\x00\x00")
    assert run_command_line(command.format(path).split()) == ExitCode.INTEGRITY
    printed = " ".join(capsys.readouterr().err.split())
    assert "is a GGUF file, not a bundle" in printed and "edgeq export" in printed
