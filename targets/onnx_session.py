"""A session over a variant for ONNX Runtime, on this machine's CPU."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from edgeq.graph.overflow import find_saturating
from edgeq.onnx_runtime import DEFAULT_LEVEL, OptimizationLevel, kernels_saturate
from edgeq.runtime.executors import Executor, NativeExecutor, native_environment
from edgeq.runtime.session import VariantSession, execute_through
from edgeq.targets.onnx_twins import ARM64_CASES, RunAll, emulated_arm64, louder_twins, native_twins
from edgeq.targets.target import Twin
from edgeq.types import Verification

if TYPE_CHECKING:
    from edgeq.graph.overflow import SaturatingLayer
    from edgeq.runtime.adapter import HasSignature
    from edgeq.targets.target import VariantSpec


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
        self._signature, self._pad_id, self._level = signature, pad_id, spec.level
        self._is_accelerators = spec.execution_provider != "CPUExecutionProvider"
        self._executor = NativeExecutor(spec.architecture)

    @property
    def verification(self) -> Verification:
        """Of every number obtained from it."""
        return Verification.EXECUTED_OTHER_ARCH if self._is_accelerators else self._executor.verification

    @property
    def environment(self) -> Mapping[str, str]:
        """ONNX Runtime's version, architecture, CPU, provider and integer arithmetic."""
        layers = self._saturating
        is_exact = all(layer.is_constant for layer in layers)
        return native_environment(self._level, safe=not layers, exact=is_exact)

    @cached_property
    def _saturating(self) -> list[SaturatingLayer]:
        return find_saturating(self._path, self._level) if kernels_saturate() else []

    def twins(self, seeds: int) -> Iterator[Twin]:
        """Other thread counts and optimization levels, draws of last bits, and ARM64 where its lane is set up.

        Under emulation float graphs take minutes, so only variants opened at the usual level, whose linear layers run
        in integers or blocks, go there.
        """
        yield from native_twins(self._path, self._level, self._open, seeds)
        executor = emulated_arm64() if self._level == DEFAULT_LEVEL else None
        if executor is not None:
            yield Twin("ARM64 kernels", self._through(executor), ARM64_CASES)

    def louder_twins(self, seeds: int, last_bits: int) -> Iterator[Twin]:
        """Draws of noise so many times a last bit."""
        yield from louder_twins(self._path, self._open, seeds, last_bits)

    def _open(
        self, path: Path, *, threads: int | None = None, level: OptimizationLevel | None = None
    ) -> RunAll:
        session = VariantSession(
            path,
            self._signature,
            pad_id=self._pad_id,
            spin=False,
            threads=threads,
            level=level or self._level,
        )
        return lambda batches: [session.run(feeds) for feeds in batches]

    def _through(self, executor: Executor) -> RunAll:
        return lambda batches: execute_through(
            executor, self._path, self._signature, batches, pad_id=self._pad_id, level=self._level
        )
