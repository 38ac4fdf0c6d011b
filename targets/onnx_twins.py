"""Twins of a graph for ONNX Runtime: threads, optimization levels, last bits, other roundings, the ARM64 kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias

from edgeq.errors import EdgeqError
from edgeq.onnx_runtime import DEFAULT_LEVEL, LEVELS, OptimizationLevel
from edgeq.runtime.executors import Executor, NativeExecutor, open_executor
from edgeq.scratch import scratch_folder
from edgeq.targets.target import Twin
from edgeq.types import Feeds, Outputs, Verification

if TYPE_CHECKING:
    import onnx_ir as ir

THREADS = (1, 4)
"""Intra-op threads of twins."""
ARM64_CASES = 4
"""Golden cases that an emulated core runs while a bundle is made: seconds, not minutes."""
EMULATED_BYTES = 64 << 20
"""A larger decoder would keep an emulated core busy for minutes."""

SEGMENT_SEEDS = 2
"""Draws of last bits of a decoder that is run in segments."""
SMALLER_CUTS = 4
"""How much smaller segments of a twin are."""

RunAll: TypeAlias = Callable[[Sequence[Feeds]], list[Outputs]]
"""Outputs of every feeds, in order."""


class OpenTwin(Protocol):
    """Opens a file as the variant is opened, but for what is given."""

    def __call__(
        self, path: Path, *, threads: int | None = None, level: OptimizationLevel | None = None
    ) -> RunAll:
        """What runs it."""


def native_twins(model: Path, level: OptimizationLevel, open_twin: OpenTwin, seeds: int) -> Iterator[Twin]:
    """Other thread counts and optimization levels, last bits and roundings of activations, one open at a time.

    Args:
        model: the `.onnx` file.
        level: at which the variant is opened.
        open_twin: opens it, or a noisy copy.
        seeds: draws of last bits.
    """
    import onnx_ir as ir

    for threads in THREADS:
        yield Twin("thread counts", open_twin(model, threads=threads))
    for other in LEVELS[LEVELS.index("ORT_ENABLE_BASIC") :]:
        if other != level:
            yield Twin("optimization levels", open_twin(model, level=other))
    for kind, rounded in _rounded(ir.load(model), seeds):
        yield from _noisy(kind, rounded, open_twin)


def louder_twins(model: Path, open_twin: OpenTwin, seeds: int, last_bits: int) -> Iterator[Twin]:
    """Draws of noise so many times a last bit, which moves codes where a last bit moves hardly any.

    Nothing for graphs that round nothing to codes: their noise grows with the bits, and says nothing else.

    Args:
        model: the `.onnx` file.
        open_twin: opens a noisy copy.
        seeds: draws.
        last_bits: times a last bit.
    """
    import onnx_ir as ir

    from edgeq.graph.passes.rounding_noise import add_rounding_noise, has_quantizers
    from edgeq.graph.passes.sequence import edited

    graph = ir.load(model)
    if not has_quantizers(graph):
        return
    for seed in range(seeds):
        noisy = edited(graph, add_rounding_noise(seed, last_bits))
        yield from _noisy(f"draws of {last_bits} last bits", noisy, open_twin)


def _noisy(kind: str, graph: ir.Model, open_twin: OpenTwin) -> Iterator[Twin]:
    import onnx_ir as ir

    with scratch_folder("noise") as folder:
        path = folder / "model.onnx"
        ir.save(graph, path, external_data="weights.bin")
        yield Twin(kind, open_twin(path))


def _rounded(graph: ir.Model, seeds: int) -> Iterator[tuple[str, ir.Model]]:
    """Graphs that round otherwise, with the kind of each."""
    from edgeq.graph.passes.activation_rounding import known_roundings, round_activations
    from edgeq.graph.passes.rounding_noise import add_rounding_noise
    from edgeq.graph.passes.sequence import edited

    for seed in range(seeds):
        yield "draws of last bits", edited(graph, add_rounding_noise(seed))
    for rounding in known_roundings(graph):
        yield "roundings of activations", edited(graph, round_activations(rounding))


def emulated_arm64() -> Executor | None:
    """The ARM64 lane, where it is set up and emulates: on an ARM64 machine those are the variant's own kernels."""
    try:
        executor = open_executor("arm64")
    except EdgeqError:  # the lane is not set up, or this machine cannot have it
        return None
    return executor if executor.verification is Verification.EXECUTED_ARM64_EMULATED else None


@dataclass(frozen=True, slots=True)
class DecoderTwins:
    """Twins of a decoder, whose feeds hold the cache and are run as they are.

    Attributes:
        model: the `.onnx` file.
        level: at which the variant is opened.
    """

    model: Path
    level: OptimizationLevel = DEFAULT_LEVEL

    def twins(self, seeds: int) -> Iterator[Twin]:
        """As of an encoder; an emulated core runs small files only."""
        yield from native_twins(self.model, self.level, self._open, seeds)
        size = sum(file.stat().st_size for file in self.model.parent.glob(f"{self.model.name}*"))
        executor = emulated_arm64() if size <= EMULATED_BYTES else None
        if executor is not None:
            yield Twin("ARM64 kernels", _through(executor, self.model, self.level), ARM64_CASES)

    def louder_twins(self, seeds: int, last_bits: int) -> Iterator[Twin]:
        """Draws of noise so many times a last bit."""
        yield from louder_twins(self.model, self._open, seeds, last_bits)

    def _open(
        self, path: Path, *, threads: int | None = None, level: OptimizationLevel | None = None
    ) -> RunAll:
        # What architecture a run is said to prove something for does not matter here.
        return _through(NativeExecutor("x86-64", threads), path, level or self.level)


def _through(executor: Executor, path: Path, level: OptimizationLevel) -> RunAll:
    return lambda batches: executor.run(path, batches, level)


@dataclass(frozen=True, slots=True)
class SegmentTwins:
    """Twins of a decoder too large for a session, run some nodes at a time: each is a pass over the file.

    Attributes:
        model: the `.onnx` file.
    """

    model: Path

    def twins(self, seeds: int) -> Iterator[Twin]:
        """As of a small decoder, but for optimization levels: sessions of some nodes have little to optimize.

        Where the graph is cut decides what is fused, so it is cut elsewhere instead.
        """
        from edgeq.quantize.segmented.walk import SEGMENT_BYTES
        from edgeq.quantize.streaming.save import open_by_reference

        graph = open_by_reference(self.model)
        for threads in THREADS:
            yield Twin("thread counts", _in_segments(graph, threads=threads))
        yield Twin(
            "other cuts of the graph", _in_segments(graph, segment_bytes=SEGMENT_BYTES // SMALLER_CUTS)
        )
        for kind, rounded in _rounded(graph, min(seeds, SEGMENT_SEEDS)):
            yield Twin(kind, _in_segments(rounded))

    def louder_twins(self, seeds: int, last_bits: int) -> Iterator[Twin]:
        """Draws of noise so many times a last bit, where the graph rounds anything to codes."""
        from edgeq.graph.passes.rounding_noise import add_rounding_noise, has_quantizers
        from edgeq.graph.passes.sequence import edited
        from edgeq.quantize.streaming.save import open_by_reference

        graph = open_by_reference(self.model)
        for seed in range(min(seeds, SEGMENT_SEEDS) if has_quantizers(graph) else 0):
            noisy = edited(graph, add_rounding_noise(seed, last_bits))
            yield Twin(f"draws of {last_bits} last bits", _in_segments(noisy))


def _in_segments(graph: ir.Model, **options: int) -> RunAll:
    from edgeq.quantize.segmented.sequences import run_steps

    return lambda batches: [
        dict(found) for found in run_steps(graph, [dict(one) for one in batches], **options)
    ]
