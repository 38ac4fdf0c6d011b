"""What was measured of a variant, and how a manifest says it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edgeq.bundle.manifest import Metric
from edgeq.comparison import ONNX_DIFFERENCE
from edgeq.types import Verification

if TYPE_CHECKING:
    from edgeq.pipeline.forward.against_onnx import OnnxDifference
    from edgeq.runtime.timing import Timing

INVARIANCE_SAMPLES = 16


@dataclass(frozen=True, slots=True)
class Measured:
    """Everything measured of one variant.

    Attributes:
        fidelity: metrics by output, against the original, on held-out samples.
        batch_invariance: lowest cosine between a sample alone and in a batch; None for static batches and
            per-token outputs.
        timing: latency at batch 1, against the float32 graph in the same rounds; None for what was simulated.
        ram_bytes: growth of RSS to load and run it; None for what ONNX Runtime does not run.
        verification: how real the execution was.
        relative_errors: mean over rows of the distance to the original, by output.
        cosines: to the original, of every held-out row, by output.
        environment: what ran it, where that is not ONNX Runtime on this machine.
        differences: to the ONNX variant of the same plan, by output; empty without one.
    """

    fidelity: Mapping[str, Mapping[str, float]]
    batch_invariance: float | None
    timing: Timing | None
    ram_bytes: int | None
    verification: Verification
    relative_errors: Mapping[str, float] = field(default_factory=dict)
    cosines: Mapping[str, Sequence[float]] = field(default_factory=dict)
    environment: str | None = None
    differences: Mapping[str, OnnxDifference] = field(default_factory=dict)


def describe_environment(environment: Mapping[str, str]) -> str:
    """`onnxruntime 1.20, CPUExecutionProvider, x86-64, AMD EPYC`: the program with its version, then the rest."""
    program, *rest = environment.items()
    named = dict(rest)
    provider = [named.pop("provider")] if "provider" in named else []
    return ", ".join([" ".join(program), *provider, *named.values()])


def metrics_of(variant: str, values: Measured, environment: str) -> list[Metric]:
    """What was measured of a variant as manifest entries, in a fixed order.

    Args:
        variant: its id.
        values: measured.
        environment: where, if `values` does not say.
    """
    where = values.environment or environment
    found = [
        Metric(variant, name, value, int(metrics["n"]), where, values.verification, output)
        for output, metrics in values.fidelity.items()
        for name, value in metrics.items()
        if name != "n"
    ]
    found += [
        Metric(variant, ONNX_DIFFERENCE, item.value, item.rows, where, values.verification, output)
        for output, item in values.differences.items()
    ]
    if values.batch_invariance is not None:
        name, samples = "batch_invariance_min", INVARIANCE_SAMPLES
        found.append(Metric(variant, name, values.batch_invariance, samples, where, values.verification))
    return found
