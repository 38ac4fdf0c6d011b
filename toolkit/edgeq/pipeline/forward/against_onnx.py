"""How far a variant in another format is from the ONNX variant that the same plan made.

Both compute the same decisions, so they may differ by rounding alone. That is a check of the lowering itself,
which the distance to the original model, dominated by quantization, is not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edgeq.bundle.manifest import Gate
from edgeq.comparison import ONNX_DIFFERENCE, Run, judge
from edgeq.metrics import OutputComparison
from edgeq.tasks.tokens import Tokens
from edgeq.types import Feeds, Outputs, TensorSpec

if TYPE_CHECKING:
    from edgeq.targets.target import Session

FLOAT32_NOISE = 1e-4
"""Relative difference that float32 itself may show between two runtimes (the golden tolerances' floor)."""


@dataclass(frozen=True, slots=True)
class OnnxVariant:
    """The ONNX variant to compare with.

    Attributes:
        name: as `cpu cpu-int8`: its target and id.
        run: canonical feeds to outputs.
        own_error: its mean relative error to the original, by output: 0 where nothing is quantized.
    """

    name: str
    run: Run
    own_error: dict[str, float]


@dataclass(frozen=True, slots=True)
class OnnxDifference:
    """The difference on one output, and what it may be.

    Attributes:
        value: mean over rows of `|found - expected| / |expected|`.
        bound: what rounding may add up to.
        derived_from: the bound in words.
        rows: compared.
    """

    value: float
    bound: float
    derived_from: str
    rows: int


@dataclass(slots=True)
class OnnxProbe:
    """Runs a session, and compares every batch with the peer on the way: nothing is run twice."""

    session: Session
    peer: OnnxVariant
    outputs: Sequence[TensorSpec]
    comparisons: list[OutputComparison] = field(init=False)

    def __post_init__(self) -> None:
        """One comparison per output."""
        self.comparisons = [OutputComparison(spec) for spec in self.outputs]

    def __call__(self, feeds: Feeds) -> Outputs:
        """The session's outputs."""
        found, expected = self.session.run(feeds), self.peer.run(feeds)
        for comparison in self.comparisons:
            name = comparison.spec.name
            comparison.add(expected[name], found[name], Tokens.of_feeds(feeds).mask)
        return found

    def parities(self) -> dict[str, OnnxDifference]:
        """By output, over all batches so far."""
        return {comparison.spec.name: self._parity(comparison) for comparison in self.comparisons}

    def _parity(self, comparison: OutputComparison) -> OnnxDifference:
        metrics = comparison.metrics()
        own = self.peer.own_error[comparison.spec.name]
        bound, reason = difference_bound(self.session.rounding_noise, own)
        return OnnxDifference(
            metrics["relative_error_mean"], bound, f"{reason}; to {self.peer.name}", int(metrics["n"])
        )


def difference_bound(rounding_noise: float, own_error: float) -> tuple[float, str]:
    """The largest relative difference that rounding explains, and why.

    Float formats: the rounding noise of the format (`Session.rounding_noise`), or float32's own. With quantized
    activations a small difference moves some values to the next code, an error of a whole step, and the codes of
    two correct programs drift apart layer after layer, while their weight codes stay the same. They may differ by
    no more than quantization itself moved them, which is the peer's own error to the original.

    Args:
        rounding_noise: relative.
        own_error: the peer's relative error to the original; 0 where nothing is quantized.
    """
    noise = max(rounding_noise, FLOAT32_NOISE)
    bound = float(f"{math.hypot(noise, own_error):.3g}")
    if own_error == 0:
        return bound, f"rounding noise {noise:.2g}"
    return (
        bound,
        f"rounding noise {noise:.2g}, and the codes it flips: at most the peer's own error {own_error:.2g}",
    )


def difference_gates(variant: str, parities: Mapping[str, OnnxDifference]) -> list[Gate]:
    """One gate per output, with its verdict."""
    return [
        judge(
            Gate(variant, output, ONNX_DIFFERENCE, "<=", item.bound, item.derived_from),
            {ONNX_DIFFERENCE: item.value},
        )
        for output, item in parities.items()
    ]
