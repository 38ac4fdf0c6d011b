"""What `edgeq tune` is asked, and what it found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from edgeq.pipeline.request import DEFAULT_GRAM_SAMPLES
from edgeq.pipeline.tune.budget import Budget
from edgeq.quantize.bootstrap import Estimate
from edgeq.quantize.recipes import LayerSpec, Recipe
from edgeq.quantize.search import Point

DEFAULT_CALIB_SAMPLES = DEFAULT_GRAM_SAMPLES


@dataclass(frozen=True, slots=True)
class TuneRequest:
    """What to search.

    Attributes:
        model: folder or Hub id; None takes the sample model.
        target: its CPU variant is tuned.
        budget: see `Budget`.
        calib: texts to calibrate, rank, decide and report on (four parts).
        data: labelled pairs, for `spearman_drop`; half decide, half report.
        seed: of sampling and resampling.
    """

    target: str
    budget: Budget
    model: str | None = None
    calib: str | None = None
    calib_column: str | None = None
    calib_samples: int = DEFAULT_CALIB_SAMPLES
    data: Path | None = None
    task: str | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Evaluated:
    """A choice of formats as the file that an export makes of it, judged on the decision data.

    Attributes:
        label: a fixed recipe's name; empty for what was searched.
        point: formats by unit, with the predicted loss (NaN for a fixed recipe).
        specs: the same by layer, as a recipe says it.
        size_bytes: of the file.
        estimate: of the metric.
    """

    label: str
    point: Point
    specs: Mapping[str, LayerSpec]
    size_bytes: int
    estimate: Estimate


@dataclass(frozen=True, slots=True)
class TuneResult:
    """What was found.

    Attributes:
        recipe: re-runnable with `edgeq export --recipe`.
        chosen: the point it stands for.
        report: the chosen point on data that decided nothing.
        curve: everything that was measured, smallest first.
        metric: what the estimates are of.
        notes: what the user should know: a sample too small to tell.
        losses: predicted loss by unit of the chosen point, most first.
    """

    recipe: Recipe
    chosen: Evaluated
    report: Estimate
    curve: tuple[Evaluated, ...]
    metric: str
    budget: Budget
    notes: tuple[str, ...] = ()
    losses: Mapping[str, float] = field(default_factory=dict)
