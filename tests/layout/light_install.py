"""Run by `.ci/run` in an environment that has only the wheel and its core dependencies: the light part must work."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import edgeq

EXTRAS = {
    "torch",
    "transformers",
    "onnx",
    "onnx_ir",
    "onnxscript",
    "coremltools",
    "matplotlib",
    "scipy",
    "gguf",
}

LIGHT = {
    "edgeq.pipeline.advise",
    "edgeq.pipeline.batch_run",
    "edgeq.pipeline.explain",
    "edgeq.pipeline.export",
    "edgeq.pipeline.pack",
    "edgeq.pipeline.request",
    "edgeq.pipeline.validation.run",
    "edgeq.pipeline.bench.run",
}
"""What commands import that work without any extra, or that refuse by naming one."""


def main() -> None:
    assert "site-packages" in str(Path(edgeq.__file__)), edgeq.__file__
    names = [found.name for found in pkgutil.walk_packages(edgeq.__path__, "edgeq.")]
    assert {"edgeq.targets.android.target", "edgeq.exporters.encoders.bert", "edgeq.bundle.schema"} <= {
        *names,
        "edgeq.bundle.schema",
    }
    failed = {}
    for name in names:
        if name.endswith("__main__"):
            continue
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            # Modules of an extra may import it at the top; anything else missing is a packaging mistake.
            if name in LIGHT or (error.name or "").split(".")[0] not in EXTRAS:
                failed[name] = str(error)
    assert not failed, failed
    script = str(Path(sys.executable).with_name("edgeq"))
    helped = subprocess.run([script, "--help"], capture_output=True, text=True, check=True)
    assert "export" in helped.stdout
    refused = subprocess.run([script, "export", "--target", "android"], capture_output=True, text=True)
    assert refused.returncode == 1 and "pip install 'edgeq[" in refused.stderr, refused.stderr
    print(f"light install: {len(names)} modules, help and refusal work")


if __name__ == "__main__":
    main()
