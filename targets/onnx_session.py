"""A session over a variant for ONNX Runtime, on this machine's CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from edgeq.errors import EdgeqError
from edgeq.onnx_runtime import DEFAULT_LEVEL, LEVELS, OptimizationLevel, kernels_saturate
from edgeq.runtime.executors import NativeExecutor, native_environment, open_executor
from edgeq.runtime.session import VariantSession, execute_through
from edgeq.targets.base import Twin
from edgeq.types import Feeds, Outputs, Verification

if TYPE_CHECKING:
    from edgeq.runtime.adapter import HasSignature
    from edgeq.targets.base import VariantSpec

THREADS = (1, 4)
"""Intra-op threads of twins."""
ARM64_CASES = 4
"""Golden cases that an emulated core runs while a bundle is made: seconds, not minutes."""


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
        return native_environment(self._level, safe=self._is_safe)

    @cached_property
    def _is_safe(self) -> bool:
        from edgeq.graph.overflow import find_saturating

        return not (kernels_saturate() and find_saturating(self._path))

    def twins(self, seeds: int) -> Iterator[Twin]:
        """Other thread counts and optimization levels, draws of last bits, and ARM64 where its lane is set up.

        Under emulation float graphs take minutes, so only variants opened at the usual level, whose linear layers run
        in integers or blocks, go there.
        """
        for threads in THREADS:
            yield Twin("thread counts", _each(self._open(self._path, threads=threads)))
        for level in LEVELS[LEVELS.index("ORT_ENABLE_BASIC") :]:
            if level != self._level:
                yield Twin("optimization levels", _each(self._open(self._path, level=level)))
        yield from self._noisy(seeds)
        if self._level == DEFAULT_LEVEL and (arm64 := self._on_arm64()) is not None:
            yield Twin("ARM64 kernels", arm64, ARM64_CASES)

    def _open(
        self, path: Path, *, threads: int | None = None, level: OptimizationLevel | None = None
    ) -> VariantSession:
        return VariantSession(
            path,
            self._signature,
            pad_id=self._pad_id,
            spin=False,
            threads=threads,
            level=level or self._level,
        )

    def _noisy(self, seeds: int) -> Iterator[Twin]:
        import onnx_ir as ir

        from edgeq.graph.passes.rounding_noise import with_rounding_noise

        model = ir.load(self._path)
        for seed in range(seeds):
            with TemporaryDirectory(prefix="edgeq-noise-") as folder:
                path = Path(folder) / "model.onnx"
                ir.save(with_rounding_noise(model, seed), path, external_data="weights.bin")
                yield Twin("draws of last bits", _each(self._open(path)))

    def _on_arm64(self) -> Callable[[Sequence[Feeds]], list[Outputs]] | None:
        try:
            executor = open_executor("arm64")
        except EdgeqError:  # the lane is not set up, or this machine cannot have it
            return None
        if executor.verification is not Verification.EXECUTED_ARM64_EMULATED:
            return None
        return lambda batches: execute_through(
            executor, self._path, self._signature, batches, pad_id=self._pad_id, level=self._level
        )


def _each(session: VariantSession) -> Callable[[Sequence[Feeds]], list[Outputs]]:
    return lambda batches: [session.run(feeds) for feeds in batches]
