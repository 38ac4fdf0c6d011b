"""The phone's runner in Python, for the fake `adb`: the same files in and out as samples/android/runner."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort


def main(model: str, folder: Path) -> None:
    batches: dict[int, dict[str, np.ndarray]] = {}
    head, *lines = (folder / "request.txt").read_text().splitlines()
    word, key, level = head.split(" ")
    assert (word, key) == ("option", "graph_optimization_level")
    options = ort.SessionOptions()
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    for line in lines:
        batch, dtype, rank, *rest = line.split(" ")
        dims, (file, *name) = [int(dim) for dim in rest[: int(rank)]], rest[int(rank) :]
        value = np.frombuffer((folder / file).read_bytes(), dtype).reshape(dims)
        batches.setdefault(int(batch), {})[" ".join(name)] = value
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    lines = [f"onnxruntime {ort.__version__}"]
    for batch, feeds in batches.items():
        for index, (name, value) in enumerate(zip(names, session.run(names, feeds), strict=True)):
            file = f"out{batch}_{index}.bin"
            (folder / file).write_bytes(value.tobytes())
            dims = " ".join(str(dim) for dim in value.shape)
            lines.append(f"{batch} {value.dtype.name} {value.ndim} {dims}{' ' if dims else ''}{file} {name}")
    (folder / "response.txt").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    try:
        main(sys.argv[1], Path(sys.argv[2]))
    except Exception as error:
        print(f"runner: {error}", file=sys.stderr)
        sys.exit(1)
