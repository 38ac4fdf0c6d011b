"""What the targets of one export share: calibration feeds, and the ONNX variant others are compared with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeq.pipeline.forward.against_onnx import OnnxVariant
from edgeq.pipeline.forward.data import DataSets
from edgeq.runtime.session import VariantSession
from edgeq.targets import get_target
from edgeq.types import ONNX_RUNTIME, Feeds

if TYPE_CHECKING:
    from edgeq.pipeline.plan import TargetResult

RANGE_SAMPLES = 128
"""Calibration samples that show which values float16 must hold; half of its range stays free beyond them."""


@dataclass(frozen=True, slots=True)
class CalibrationFeeds:
    """Calibration feeds, at most `RANGE_SAMPLES`, evenly spread over the batches, which are sorted by length."""

    data: DataSets

    def __iter__(self) -> Iterator[Feeds]:
        """Feeds of every batch that is used; iterates as often as wanted."""
        every = max(1, -(-self.data.calibration_samples // RANGE_SAMPLES))
        last = len(self.data.calibration) - 1
        for index, (feeds, _) in enumerate(self.data.calibration):
            if (last - index) % every == 0:
                yield feeds


def onnx_first(targets: Iterable[str]) -> list[str]:
    """Targets in an order in which those with a runtime of their own find an ONNX variant to compare with."""
    return sorted(targets, key=lambda name: bool(get_target(name).own_runtimes))


def find_onnx_variant(done: Sequence[TargetResult], pad_id: int, is_quantized: bool) -> OnnxVariant | None:
    """The first CPU variant among the bundles that are finished; None when there is none."""
    for result in done:
        for variant in result.bundle.variants:
            if variant.runtime == ONNX_RUNTIME and variant.execution_provider == "CPUExecutionProvider":
                session = VariantSession(result.bundle.model_path(variant), variant, pad_id=pad_id)
                errors = result.measured[variant.id].relative_errors
                own = {output: error if is_quantized else 0.0 for output, error in errors.items()}
                return OnnxVariant(f"{variant.id} for {result.target}", session.run, own)
    return None
