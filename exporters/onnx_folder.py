"""Model folders whose weights are an ONNX file only, as many on the Hub are."""

from __future__ import annotations

from pathlib import Path

from edgeq.errors import ModelError
from edgeq.exporters.checkpoint import WEIGHT_FILES

ONNX_FILES = ("onnx/model.onnx", "model.onnx")
"""In the order they are preferred; other names stand for something else (half precision, quantized)."""


def onnx_of_folder(folder: Path) -> Path | None:
    """The ONNX file that stands for a folder without a checkpoint; None where there is a checkpoint, or no such file.

    Raises:
        ModelError: it holds ONNX files, and none of them is the plain one.
    """
    if any((folder / name).is_file() for name in WEIGHT_FILES):
        return None
    found = next((folder / name for name in ONNX_FILES if (folder / name).is_file()), None)
    if found is None:
        _refuse_others(folder)
    return found


def _refuse_others(folder: Path) -> None:
    others = sorted(path for place in (folder, folder / "onnx") for path in place.glob("*.onnx"))
    if not others:
        return
    names = ", ".join(path.relative_to(folder).as_posix() for path in others)
    raise ModelError(
        f"`{folder}` has no model.safetensors and no onnx/model.onnx, but {names}",
        hint=f'name the file: edgeq export "{_likeliest(others)}"',
    )


def _likeliest(paths: list[Path]) -> Path:
    """A float one where the names tell."""
    quantized = ("quant", "int8", "q4", "bnb4")
    return next((path for path in paths if not any(word in path.stem for word in quantized)), paths[0])
