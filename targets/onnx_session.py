"""A session over a variant for ONNX Runtime, on this machine's CPU."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from edgeq.onnx_runtime import kernels_saturate
from edgeq.runtime.executors import NativeExecutor, native_environment
from edgeq.runtime.session import VariantSession
from edgeq.types import Verification

if TYPE_CHECKING:
    from edgeq.runtime.adapter import HasSignature
    from edgeq.targets.base import VariantSpec


class OnnxSession(VariantSession):
    """ONNX Runtime's CPU provider: the real thing only for a CPU variant on its own architecture.

    Args:
        spec: decides how it is opened, and how much a run proves.
        model: the `.onnx` file.
        signature: its inputs and outputs.
        pad_id: what token ids are padded with.
    """

    rounding_noise = 0.0
    also = ()

    def __init__(self, spec: VariantSpec, model: Path, signature: HasSignature, *, pad_id: int = 0) -> None:
        super().__init__(model, signature, pad_id=pad_id, spin=False, level=spec.level)
        self._level = spec.level
        self._is_accelerators = spec.execution_provider != "CPUExecutionProvider"
        self._executor = NativeExecutor(spec.architecture)

    @property
    def verification(self) -> Verification:
        """Of every number obtained from it."""
        return Verification.EXECUTED_OTHER_ARCH if self._is_accelerators else self._executor.verification

    @property
    def environment(self) -> Mapping[str, str]:
        """ONNX Runtime's version, architecture, CPU, provider and integer arithmetic."""
        return native_environment(self._level, safe=self._is_safe)

    @cached_property
    def _is_safe(self) -> bool:
        from edgeq.graph.overflow import find_saturating

        return not (kernels_saturate() and find_saturating(self._path))
