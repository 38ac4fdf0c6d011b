"""Running a package with Core ML itself, on a Mac. Not executed in our own tests: they run on Linux."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edgeq.errors import UnsupportedError
from edgeq.targets.coreml.backend import coremltools
from edgeq.types import Feeds, Outputs, Verification

Units = Literal["cpu", "all"]


class CoreMLRunner:
    """A package loaded by Core ML.

    Args:
        path: the `.mlpackage`.
        units: `cpu` (float32 and float16 on the CPU only) or `all` (Core ML places each operator).

    Raises:
        UnsupportedError: this machine is no Mac.
    """

    verification = Verification.EXECUTED

    def __init__(self, path: Path, units: Units = "all") -> None:
        if sys.platform != "darwin":
            raise UnsupportedError(
                f"Core ML runs packages on macOS only, and this is {sys.platform}",
                hint="use the interpreter (level: simulated), or run `edgeq validate` on a Mac",
            )
        ct = coremltools()
        chosen = ct.ComputeUnit.CPU_ONLY if units == "cpu" else ct.ComputeUnit.ALL
        self._model: Any = ct.models.MLModel(str(path), compute_units=chosen)

    def run(self, feeds: Feeds) -> Outputs:
        """Predict; integer inputs become int32."""
        given = {
            name: value.astype(np.int32 if np.issubdtype(value.dtype, np.integer) else np.float32)
            for name, value in feeds.items()
        }
        return {name: np.asarray(value) for name, value in self._model.predict(given).items()}
