"""Runs one model over batches inside the emulated Python, which has numpy, onnxruntime and nothing of edgeq.

    python runner_script.py FOLDER

FOLDER holds `inputs.npz` with arrays named `BATCH.INDEX`, and `request.json`:
    {"model": path, "threads": N, "level": graph optimization level, "inputs": [[name, ...] per batch],
     "optimized": path to save the optimized model to, or null}
The program writes `outputs.npz` in the same way, and `response.json`:
    {"outputs": [name, ...], "onnxruntime": version, "machine": "aarch64"}
"""

import json
import platform
import sys
from pathlib import Path


def main(folder: Path) -> None:
    """Run the request of `folder`."""
    import numpy as np
    import onnxruntime as ort

    request = json.loads((folder / "request.json").read_text())
    options = ort.SessionOptions()
    options.intra_op_num_threads = request["threads"]
    options.log_severity_level = 3
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, request["level"])
    if request["optimized"]:
        options.optimized_model_filepath = request["optimized"]
    session = ort.InferenceSession(request["model"], options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    arrays = {}
    with np.load(folder / "inputs.npz") as inputs:
        for batch, input_names in enumerate(request["inputs"]):
            feeds = {name: inputs[f"{batch}.{index}"] for index, name in enumerate(input_names)}
            for index, value in enumerate(session.run(names, feeds)):
                arrays[f"{batch}.{index}"] = value
    np.savez(folder / "outputs.npz", **arrays)
    response = {"outputs": names, "onnxruntime": ort.__version__, "machine": platform.machine()}
    (folder / "response.json").write_text(json.dumps(response))


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except Exception as error:
        # The caller shows one line; a traceback of the emulated Python would only hide it.
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(3)
