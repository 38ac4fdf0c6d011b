"""How far the logits of a language model may lie from what its golden cases record, and where each bound comes from.

Files for ONNX Runtime are run as their twins compute them, as encoders are (pipeline/kernel_noise.py). What cannot be
run in other ways here, files of other runtimes, may be twice as far away as quantization itself moved it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeq.bundle.golden import GoldenCase
from edgeq.bundle.manifest import Gate
from edgeq.errors import ModelError
from edgeq.numerics import FP16_STEP
from edgeq.onnx_runtime import DEFAULT_LEVEL, OptimizationLevel
from edgeq.pipeline.bounds import Bounds, measured_bounds
from edgeq.pipeline.drift import COSINE, MAX_ABS, MEAN, RMS, Drift, drift_of, worst
from edgeq.pipeline.golden_metrics import GOLDEN, golden_metrics
from edgeq.pipeline.kernel_noise import four_digits, measure_noise
from edgeq.targets.kernels import is_held_whole
from edgeq.targets.onnx_twins import DecoderTwins, SegmentTwins
from edgeq.tasks import Head
from edgeq.tasks.next_token import NEXT_TOKEN
from edgeq.types import Role, TensorSpec

if TYPE_CHECKING:
    from edgeq.progress import Stage
    from edgeq.targets.target import HasTwins

LOGITS = TensorSpec("logits", "float32", ("batch", "sequence", "vocabulary"), Role.LOGITS)
HEAD = Head(NEXT_TOKEN, (LOGITS,))


def decoder_bounds(
    variant: str,
    model: Path,
    cases: Sequence[GoldenCase],
    stage: Stage,
    level: OptimizationLevel = DEFAULT_LEVEL,
) -> Bounds:
    """Of a file for ONNX Runtime: its kernel noise, measured whole or, of a large file, some nodes at a time.

    Args:
        variant: its id.
        model: the file.
        cases: with its outputs.
        stage: moved by one for each twin.
        level: at which the variant is opened.

    Raises:
        ModelError: a logit is NaN or infinite.
    """
    twins: HasTwins = DecoderTwins(model, level) if is_held_whole(model) else SegmentTwins(model)
    noise = {variant: measure_noise(twins, variant, HEAD, cases, stage)}
    return measured_bounds(cases, noise)


@dataclass(frozen=True, slots=True)
class OwnError:
    """The rule where kernel noise is not measured.

    Attributes:
        times: how often the own error counts.
        step: share of the output scale below which no error is asked to stay.
        reason: why noise is not measured.
    """

    times: float
    step: float
    reason: str


LLAMA_CPP = OwnError(
    2.0, FP16_STEP, "llama.cpp rounds the inputs of every layer, and keys and values to float16"
)
"""Two such runs differ by two errors, not by none; and llama.cpp cannot be made to round otherwise."""


def own_error_bounds(variant: str, cases: Sequence[GoldenCase], rule: OwnError) -> Bounds:
    """No farther from what is recorded than so many times the distance of that from the original.

    Raises:
        ModelError: a logit is NaN or infinite.
    """
    recorded = [case.outputs[variant] for case in cases]
    pairs = zip(cases, recorded, strict=True)
    own = worst([drift_of(LOGITS, case, case.reference["logits"], found["logits"]) for case, found in pairs])
    if own.max_abs != own.max_abs:
        raise ModelError(f"variant `{variant}` returns NaN or infinite logits on golden prompts")
    scale = max(float(abs(found["logits"]).max()) for found in recorded)
    quality = golden_metrics(HEAD, cases, recorded)["logits"]["kl_mean"]
    tolerances = _own_tolerances(variant, own, scale, rule)
    return Bounds({case.id: tolerances for case in cases}, _own_gates(variant, own, scale, quality, rule))


def _own_tolerances(variant: str, own: Drift, scale: float, rule: OwnError) -> list[Gate]:
    bound = rule.times * max(own.max_abs, rule.step * scale)
    lost = rule.times**2 * max(1 - own.cosine, rule.step**2)
    return [
        Gate(
            variant,
            "logits",
            MAX_ABS,
            "<=",
            four_digits(bound),
            _source(rule, f"own error {own.max_abs:.3g}"),
        ),
        Gate(
            variant, "logits", COSINE, ">=", round(1 - lost, 7), _source(rule, f"own cosine {own.cosine:.6g}")
        ),
    ]


def _own_gates(variant: str, own: Drift, scale: float, divergence: float, rule: OwnError) -> list[Gate]:
    # Both grow with the square of an error; half a square is the most that changing every logit by it can cost.
    most = rule.times**2 * max(divergence, (rule.step * scale) ** 2 / 2)
    return [
        *(_own_distance(variant, metric, own.metrics()[metric], rule) for metric in (RMS, MEAN)),
        Gate(
            variant,
            "logits",
            f"{GOLDEN}kl_mean",
            "<=",
            four_digits(most),
            _source(rule, f"own divergence {divergence:.3g}"),
            divergence,
            True,
        ),
    ]


def _own_distance(variant: str, metric: str, own: float, rule: OwnError) -> Gate:
    bound = four_digits(rule.times * max(own, rule.step))
    return Gate(variant, "logits", metric, "<=", bound, _source(rule, f"own error {own:.3g}"), 0.0, True)


def _source(rule: OwnError, measured: str) -> str:
    return (
        f"{measured} on the golden cases, an error {rule.times:g} times as large allowed, {rule.step:.2g} of the "
        f"output scale at least: {rule.reason}"
    )
