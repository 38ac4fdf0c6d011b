"""What quantization cost a weight, and the output of its layer over the calibration inputs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgeq.quantize.weight_only.quantized_weight import LayerStats
from edgeq.types import Array


@dataclass(frozen=True, slots=True)
class Energy:
    """Sums over a weight's values, for relative errors.

    Attributes:
        noise: of squared differences between the quantized and the original values.
        signal: of squared values.
        output_noise: of squared differences times E[x^2] of their input channel; 0 without statistics.
        output_signal: of squared values, likewise.
    """

    noise: float = 0.0
    signal: float = 0.0
    output_noise: float = 0.0
    output_signal: float = 0.0

    @property
    def weight_error(self) -> float:
        """Relative error of the weight."""
        return _rounded(_ratio(self.noise, self.signal))

    @property
    def output_error(self) -> float:
        """Relative error of the layer's output."""
        return _rounded(_ratio(self.output_noise, self.output_signal))

    def __add__(self, other: Energy) -> Energy:
        """Of two parts of a weight."""
        return Energy(
            self.noise + other.noise,
            self.signal + other.signal,
            self.output_noise + other.output_noise,
            self.output_signal + other.output_signal,
        )


def is_known(stats: LayerStats | None) -> bool:
    """Of inputs that are NaN or infinite nothing can be said; the fallback's note says that they are."""
    return stats is not None and bool(
        np.isfinite(stats.mean_square if stats.gram is None else stats.gram).all()
    )


def energy_of(weight: Array, found: Array, stats: LayerStats | None) -> Energy:
    """What rounding a weight `[in, out]` cost, and its output over the calibration inputs where there are any."""
    error = found - weight
    of_weight = float(np.square(error).sum()), float(np.square(weight).sum())
    if stats is None or not is_known(stats):
        return Energy(*of_weight)
    return Energy(*of_weight, *_output_energy(weight, error, stats))


def _output_energy(weight: Array, error: Array, stats: LayerStats) -> tuple[float, float]:
    """`|X E|^2` and `|X W|^2`; without X^T X as if channels were uncorrelated."""
    if stats.gram is not None:
        gram = np.asarray(stats.gram, np.float32)
        noise = np.einsum("kn,kn->", error, gram @ error, dtype=np.float64)
        signal = np.einsum("kn,kn->", weight, gram @ weight, dtype=np.float64)
    else:
        squares = stats.mean_square[:, None]
        noise, signal = np.sum(np.square(error) * squares), np.sum(np.square(weight) * squares)
    return float(noise), float(signal)


def _ratio(noise: float, signal: float) -> float:
    """Square root of a ratio of energies; a weight of zeros that stays zeros has no error."""
    if signal > 0:
        return float(np.sqrt(max(float(noise), 0.0) / float(signal)))
    return 0.0 if noise <= 0 else float("inf")


def _rounded(value: float) -> float:
    """Seven digits: the plan's bytes must not hang on the last bits of a sum."""
    return float(f"{value:.7g}")
