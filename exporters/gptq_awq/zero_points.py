"""Whether zero points were read in the right version of GPTQ's format, from the numbers alone.

`gptq` stores zero points less one and `gptq_v2` as they are; read as the other, every weight is off by one step, which
is a model that runs and is wrong. Weights of a trained matrix lie around 0, so the mean of `code - zero` over all of
them is near 0 when the version is right, and near 1 or -1 when it is the other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgeq.errors import ModelError
from edgeq.exporters.gptq_awq.settings import GPTQ_VERSIONS, PackedSettings
from edgeq.quantize.weight_only import QuantizedWeight

HALFWAY = 0.5
"""Steps: beyond it the other version's mean is the nearer one to 0."""
STANDARD_ERRORS = 4.0
"""By how many standard errors the mean must lie beyond `HALFWAY`: the few weights of a tiny layer prove nothing."""


@dataclass(slots=True)
class StepMean:
    """Mean and spread of `code - zero` over the layers that were added."""

    count: int = 0
    total: float = 0.0
    squares: float = 0.0

    def add(self, weight: QuantizedWeight) -> None:
        """One layer."""
        middle = 1 << (weight.spec.bits - 1)
        zeros = middle if weight.zero_points is None else weight.zero_points[:, :, None].astype(np.int32)
        steps = (weight.q.astype(np.int32) - zeros).reshape(weight.out_features, -1)[:, : weight.in_features]
        self.count += steps.size
        self.total += float(steps.sum(dtype=np.int64))
        self.squares += float(np.square(steps, dtype=np.int64).sum(dtype=np.int64))

    @property
    def mean(self) -> float:
        """Steps; 0 where nothing was added."""
        return self.total / max(self.count, 1)

    @property
    def standard_error(self) -> float:
        """Of the mean."""
        variance = self.squares / max(self.count, 1) - self.mean**2
        return float(np.sqrt(max(variance, 0.0) / max(self.count, 1)))

    def check(self, settings: PackedSettings) -> None:
        """Refuse zero points that only the other version explains.

        Raises:
            ModelError: the weights lie a step away from 0.
        """
        beyond = abs(self.mean) - HALFWAY
        if settings.method != "gptq" or beyond <= STANDARD_ERRORS * self.standard_error:
            return
        other = next(name for name in GPTQ_VERSIONS if name != settings.layout)
        # `gptq` adds one: of zero points that were stored as they are it makes every weight a step too small.
        is_explained = self.mean < 0 if settings.layout == "gptq" else self.mean > 0
        raise ModelError(
            f"zero points read as format `{settings.layout}` put the mean of all weights {self.mean:+.2f} steps from 0",
            hint=f'as `{other}` it would be near 0: set "checkpoint_format": "{other}" in quantization_config'
            if is_explained
            else "the checkpoint is damaged, or was packed by a tool that stores zero points in a way of its own",
        )
