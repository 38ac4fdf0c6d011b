"""How far outputs lie from those recorded for the same inputs."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from edgeq.bundle.golden import GoldenCase
from edgeq.bundle.manifest import Gate
from edgeq.errors import IntegrityError
from edgeq.metrics import cosines, largest, largest_difference, row_blocks
from edgeq.types import Array, Outputs, Role, TensorSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_ABS = "max_abs"
COSINE = "cosine_min"
RMS = "drift_rms"
MEAN = "drift_mean"
"""Names in tolerances; the last two are over all cases together."""


@dataclass(frozen=True, slots=True)
class Drift:
    """The distance of one output in one golden case, or the largest of several.

    Attributes:
        max_abs: largest difference of one value.
        cosine: lowest cosine of a row; 1 where rows are single numbers, which have none.
        noise: sum of squared differences.
        signal: sum of squares of what was recorded.
        shift: sum of the differences of all rows, `[channels]`.
        rows: how many.
    """

    max_abs: float
    cosine: float
    noise: float
    signal: float
    shift: Array = field(default_factory=lambda: np.zeros(1), compare=False)
    rows: int = 0

    @property
    def rms(self) -> float:
        """Root mean square of the difference, relative to that of the recorded values."""
        return math.sqrt(self.noise / self.signal) if self.signal > 0 else math.sqrt(self.noise)

    @property
    def mean(self) -> float:
        """Length of the mean difference of all rows, relative to the root mean square of a recorded row.

        Noise moves every row another way and cancels with their number; a damaged weight moves all of them alike.
        """
        if not math.isfinite(self.noise):
            return math.nan
        return float(np.linalg.norm(self.shift)) / math.sqrt(max(self.rows, 1) * (self.signal or 1.0))

    def metrics(self) -> dict[str, float]:
        """As tolerances name them."""
        return {MAX_ABS: self.max_abs, COSINE: self.cosine, RMS: self.rms, MEAN: self.mean}


NONE = Drift(0.0, 1.0, 0.0, 0.0)


def drift_of(spec: TensorSpec, case: GoldenCase, recorded: Array, found: Array) -> Drift:
    """The distance of one output in one case; padding does not count. NaN where a value is not finite.

    Raises:
        IntegrityError: the shapes differ.
    """
    require_shape(spec, case, recorded, found)
    blocks = row_blocks(spec, recorded, found, case.mask(spec))
    # Rows of span logits differ in length: of their differences there is a mean over all positions only.
    is_span = spec.role in (Role.START_LOGITS, Role.END_LOGITS)
    return worst([_of_rows(a, b, 1 if is_span else a.shape[1]) for a, b in blocks])


def require_shape(spec: TensorSpec, case: GoldenCase, recorded: Array, found: Array) -> None:
    """What a case holds and what a variant returns must have one shape.

    Raises:
        IntegrityError: the case is damaged, or of another model.
    """
    if recorded.shape != found.shape:
        raise IntegrityError(
            f"the golden case `{case.id}` holds `{spec.name}` of shape {list(recorded.shape)}, expected "
            f"{list(found.shape)}"
        )


def _of_rows(recorded: Array, found: Array, channels: int) -> Drift:
    difference = largest_difference(recorded, found)
    if math.isnan(difference):
        return Drift(math.nan, math.nan, math.nan, math.nan)
    wide = recorded.astype(np.float64)
    cosine = float(cosines(recorded, found).min(initial=1.0)) if recorded.shape[1] > 1 else 1.0
    moved = (found.astype(np.float64) - wide).reshape(-1, channels)
    return Drift(
        difference,
        cosine,
        float(np.square(moved).sum()),
        float(np.square(wide).sum()),
        moved.sum(axis=0),
        len(moved),
    )


def worst(drifts: Sequence[Drift]) -> Drift:
    """All of them as one: largest difference, lowest cosine, squares and differences summed."""
    found = [NONE, *drifts]
    return Drift(
        largest(item.max_abs for item in found),
        -largest(-item.cosine for item in found),
        sum(item.noise for item in found),
        sum(item.signal for item in found),
        sum((item.shift for item in found), np.zeros(1)),
        sum(item.rows for item in found),
    )


def case_drifts(
    specs: Sequence[TensorSpec],
    cases: Sequence[GoldenCase],
    recorded: Sequence[Outputs],
    found: Sequence[Outputs],
) -> Mapping[str, list[Drift]]:
    """Of each output that is recorded, one per case.

    Args:
        specs: outputs of the variant.
        cases: what was run.
        recorded: the variant's outputs as the cases hold them.
        found: its outputs now, of every position.
    """
    return {
        spec.name: [
            drift_of(spec, case, before[spec.name], case.kept(spec, now[spec.name]))
            for case, before, now in zip(cases, recorded, found, strict=True)
            if spec.name in before
        ]
        for spec in specs
    }


def not_finite(variant: str, drifts: Mapping[str, Sequence[Drift]]) -> list[Gate]:
    """Gates that only values that are not finite break, whatever a bundle bounds itself; none where all are finite.

    Args:
        variant: its id.
        drifts: of its golden cases, by output.
    """
    distances = {output: worst(items).max_abs for output, items in drifts.items()}
    source = "NaN or infinite values"
    return [
        Gate(variant, output, MAX_ABS, "<=", sys.float_info.max, source, value=distance, passed=False)
        for output, distance in distances.items()
        if not math.isfinite(distance)
    ]
