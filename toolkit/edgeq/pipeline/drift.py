"""How far outputs lie from those recorded for the same inputs."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeq.bundle.golden import GoldenCase
from edgeq.bundle.manifest import Gate
from edgeq.errors import IntegrityError
from edgeq.metrics import cosines, largest, largest_difference, row_blocks
from edgeq.types import Array, Outputs, TensorSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_ABS = "max_abs"
COSINE = "cosine_min"
RMS = "drift_rms"
"""Names of the three in tolerances; the last is over all cases together."""


@dataclass(frozen=True, slots=True)
class Drift:
    """The distance of one output in one golden case, or the largest of several.

    Attributes:
        max_abs: largest difference of one value.
        cosine: lowest cosine of a row; 1 where rows are single numbers, which have none.
        noise: sum of squared differences.
        signal: sum of squares of what was recorded.
    """

    max_abs: float
    cosine: float
    noise: float
    signal: float

    @property
    def rms(self) -> float:
        """Root mean square of the difference, relative to that of the recorded values."""
        return math.sqrt(self.noise / self.signal) if self.signal > 0 else math.sqrt(self.noise)

    def metrics(self) -> dict[str, float]:
        """As tolerances name them."""
        return {MAX_ABS: self.max_abs, COSINE: self.cosine, RMS: self.rms}


NONE = Drift(0.0, 1.0, 0.0, 0.0)


def drift_of(spec: TensorSpec, case: GoldenCase, recorded: Array, found: Array) -> Drift:
    """The distance of one output in one case; padding does not count. NaN where a value is not finite.

    Raises:
        IntegrityError: the shapes differ.
    """
    require_shape(spec, case, recorded, found)
    return worst([_of_rows(a, b) for a, b in row_blocks(spec, recorded, found, case.mask(spec))])


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


def _of_rows(recorded: Array, found: Array) -> Drift:
    difference = largest_difference(recorded, found)
    if math.isnan(difference):
        return Drift(math.nan, math.nan, math.nan, math.nan)
    wide = recorded.astype(np.float64)
    cosine = float(cosines(recorded, found).min(initial=1.0)) if recorded.shape[1] > 1 else 1.0
    noise = float(np.square(found.astype(np.float64) - wide).sum())
    return Drift(difference, cosine, noise, float(np.square(wide).sum()))


def worst(drifts: Sequence[Drift]) -> Drift:
    """All of them as one: largest difference, lowest cosine, squares summed."""
    found = [NONE, *drifts]
    return Drift(
        largest(item.max_abs for item in found),
        -largest(-item.cosine for item in found),
        sum(item.noise for item in found),
        sum(item.signal for item in found),
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
