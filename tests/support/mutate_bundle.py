"""Damages one thing in a copy of a bundle and rewrites the hashes: integrity passes, and only goldens can tell."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edgeq.bundle.integrity import SUMS_FILE, measure, sums_text

Edit = Callable[[Path], object]
"""Changes files below a folder."""


def damaged(source: Path, folder: Path, edit: Edit) -> Path:
    """A copy of a bundle after an edit, signed again."""
    shutil.copytree(source, folder)
    edit(folder)
    sign(folder)
    return folder


def sign(folder: Path) -> None:
    """Sizes and hashes of a bundle as its files are now."""
    path = folder / "edgeq.json"
    document = json.loads(path.read_text("utf-8"))
    integrity = measure(folder)
    document["integrity"]["files"] = [
        {"path": entry.path, "size": entry.size, "sha256": entry.sha256} for entry in integrity.files
    ]
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", "utf-8")
    (folder / SUMS_FILE).write_text(sums_text(folder, integrity), "utf-8")


def change_json(pattern: str, change: Callable[[Any], object]) -> Edit:
    """Changes every JSON file that a pattern finds; there must be one."""

    def edit(folder: Path) -> None:
        paths = sorted(folder.glob(pattern))
        assert paths, f"no {pattern}"
        for path in paths:
            document = json.loads(path.read_text("utf-8"))
            change(document)
            path.write_text(json.dumps(document, ensure_ascii=False), "utf-8")

    return edit


def change_npz(pattern: str, change: Callable[[dict[str, np.ndarray]], object]) -> Edit:
    """Changes the arrays of the only file of arrays that a pattern finds."""

    def edit(folder: Path) -> None:
        (path,) = folder.glob(pattern)
        with np.load(path) as archive:
            arrays = dict(archive)
        change(arrays)
        np.savez(path, **arrays)

    return edit


def change_graph(change: Callable[[Any], object]) -> Edit:
    """Changes the only ONNX graph, weights included."""

    def edit(folder: Path) -> None:
        import onnx

        (path,) = folder.glob("model/*/model.onnx")
        model = onnx.load(path)
        change(model.graph)
        onnx.save(model, path)

    return edit


def change_weight(name: str, change: Callable[[np.ndarray], object]) -> Edit:
    """Changes the initializer whose name holds a text, in place; there must be one."""

    def change_it(graph: Any) -> None:
        from onnx import numpy_helper

        (tensor,) = [item for item in graph.initializer if name in item.name]
        array = numpy_helper.to_array(tensor).copy()
        change(array)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))

    return change_graph(change_it)


def change_attribute(op_type: str, attribute: str, value: float, *, which: int = -1) -> Edit:
    """Sets a float attribute of one node of a type, the last unless told."""

    def change(graph: Any) -> None:
        node = [item for item in graph.node if item.op_type == op_type][which]
        (found,) = [item for item in node.attribute if item.name == attribute]
        assert found.f != value
        found.f = value

    return change_graph(change)


def all_of(*edits: Edit) -> Edit:
    """Several edits that make one damage."""

    def edit(folder: Path) -> None:
        for one in edits:
            one(folder)

    return edit


def change_gguf_number(key: str, value: int) -> Edit:
    """Sets an unsigned 32-bit number in the metadata of the only GGUF file."""

    def edit(folder: Path) -> None:
        (path,) = folder.glob("model/*/*.gguf")
        data = bytearray(path.read_bytes())
        # A length of 64 bits, the key, the type and the value, as gguf.md of ggml has it.
        place = data.index(struct.pack("<Q", len(key)) + key.encode()) + 8 + len(key)
        assert data[place : place + 4] == struct.pack("<I", 4)
        data[place + 4 : place + 8] = struct.pack("<I", value)
        path.write_bytes(data)

    return edit
