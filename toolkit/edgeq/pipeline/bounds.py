"""What golden cases are held to on another machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeq.pipeline.drift import MAX_ABS
from edgeq.pipeline.kernel_noise import case_tolerances, noise_gates

if TYPE_CHECKING:
    from edgeq.bundle.golden import GoldenCase
    from edgeq.bundle.manifest import Gate
    from edgeq.pipeline.kernel_noise import Noise


@dataclass(frozen=True, slots=True)
class Bounds:
    """Bounds with their origin.

    Attributes:
        tolerances: of each case, by id.
        gates: on all cases together.
    """

    tolerances: Mapping[str, Sequence[Gate]]
    gates: Sequence[Gate]

    @property
    def largest(self) -> float:
        """The most that any value may be off."""
        return max(
            gate.threshold for gates in self.tolerances.values() for gate in gates if gate.metric == MAX_ABS
        )


def measured_bounds(cases: Sequence[GoldenCase], noise: Mapping[str, Mapping[str, Noise]]) -> Bounds:
    """Bounds of cases whose kernel noise was measured, by variant and output."""
    return Bounds({case.id: case_tolerances(case, noise) for case in cases}, noise_gates(noise))
