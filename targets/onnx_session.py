"""A session over a variant for ONNX Runtime, on this machine's CPU."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from edgeq.runtime.executors import NativeExecutor
from edgeq.runtime.session import VariantSession
from edgeq.types import Verification

if TYPE_CHECKING:
    from edgeq.runtime.adapter import HasSignature
    from edgeq.targets.base import VariantSpec


class OnnxSession(VariantSession):
    """ONNX Runtime's CPU provider: the real thing only for a CPU variant on its own architecture.

    Args:
        spec: decides how much a run proves.
        model: the `.onnx` file.
        signature: its inputs and outputs.
        pad_id: what token ids are padded with.
    """

    rounding_noise = 0.0
    also = ()

    def __init__(self, spec: VariantSpec, model: Path, signature: HasSignature, *, pad_id: int = 0) -> None:
        super().__init__(model, signature, pad_id=pad_id, spin=False)
        self._is_accelerators = spec.execution_provider != "CPUExecutionProvider"
        self._executor = NativeExecutor(spec.architecture)

    @property
    def verification(self) -> Verification:
        """Of every number obtained from it."""
        return Verification.EXECUTED_OTHER_ARCH if self._is_accelerators else self._executor.verification

    @property
    def environment(self) -> Mapping[str, str]:
        """ONNX Runtime's version, architecture, CPU and provider."""
        return self._executor.environment
