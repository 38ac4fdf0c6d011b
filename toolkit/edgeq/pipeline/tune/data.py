"""Texts of a search in four parts that do not overlap: to calibrate, to rank formats, to decide, to report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeq.errors import DataError
from edgeq.pipeline.forward.data import DataSets
from edgeq.types import Feeds

if TYPE_CHECKING:
    from edgeq.calibration import CalibrationData
    from edgeq.pipeline.originals import Feeder
    from edgeq.tasks.labelled import LabelledPairs

REPORT_SAMPLES = 128
DECISION_SAMPLES = 256
RANKING_SAMPLES = 64


@dataclass(frozen=True, slots=True)
class TuneData:
    """The parts.

    Attributes:
        sets: calibration, and the texts that rank formats (its search part).
        decision: which point is accepted.
        report: looked at once, for the numbers that are printed.
    """

    sets: DataSets
    decision: tuple[Feeds, ...]
    report: tuple[Feeds, ...]


def wanted_texts(calibration_samples: int) -> int:
    """How many texts to load."""
    return calibration_samples + REPORT_SAMPLES + DECISION_SAMPLES + RANKING_SAMPLES


def divide_texts(data: CalibrationData, feeder: Feeder, calibration_samples: int) -> TuneData:
    """Report and decision texts first: they stay the same when more calibrate.

    Raises:
        DataError: ready tensors instead of texts.
    """
    if data.feeds is not None:
        raise DataError("a search needs texts, and the calibration data are ready tensors (.npz)")
    samples = tuple(data.samples)
    report, decision, ranking = _sizes(len(samples))
    cuts = np.cumsum([report, decision, ranking])
    parts = [samples[start:end] for start, end in zip([0, *cuts], [*cuts, len(samples)], strict=True)]
    rest = parts[3][:calibration_samples]
    sets = DataSets(
        calibration=feeder.calibration(rest),
        calibration_samples=len(rest),
        search=feeder.judged(parts[2]),
        held_out=(),
        golden=(),
        texts=rest,
        padding=feeder.padding,
    )
    return TuneData(sets, feeder.judged(parts[1]), feeder.judged(parts[0]))


def divide_pairs(pairs: LabelledPairs, seed: int) -> tuple[LabelledPairs, LabelledPairs]:
    """Half to decide, half to report."""
    order = np.random.default_rng(seed).permutation(len(pairs.scores)).tolist()
    half = len(order) // 2
    return pairs.part(sorted(order[:half])), pairs.part(sorted(order[half:]))


def _sizes(count: int) -> tuple[int, int, int]:
    """Report, decision and ranking texts; with few texts an eighth, a quarter and an eighth of them."""
    return (
        min(REPORT_SAMPLES, max(2, count // 8)),
        min(DECISION_SAMPLES, max(2, count // 4)),
        min(RANKING_SAMPLES, max(2, count // 8)),
    )
