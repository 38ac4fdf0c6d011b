"""Static int8 wired up: the quantizer, calibration with its cache, and the held-out error that guides it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeq.graph.static_weight import StaticWeight
from edgeq.metrics import OutputComparison
from edgeq.pipeline.forward.data import DataSets
from edgeq.progress import Progress, Stage
from edgeq.quantize.cache import CalibrationCache
from edgeq.quantize.calibrate import calibrate
from edgeq.quantize.plan import QuantizationPlan
from edgeq.quantize.simulate import simulate
from edgeq.quantize.static_int8 import StaticInt8Quantizer, StaticInt8Result, StaticInt8Settings, Trial
from edgeq.runtime.session import VariantSession
from edgeq.scratch import scratch_folder
from edgeq.tasks.tokens import Tokens
from edgeq.types import Feeds, Outputs

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeq.graph.component import Component
    from edgeq.quantize.statistics import Statistics

SEARCH_OUTPUT_BYTES = 256 << 20
"""Reference outputs kept in memory during the search; large vocabularies use fewer batches."""


def quantize_int8(
    canonical: Component, data: DataSets, settings: StaticInt8Settings, progress: Progress
) -> StaticInt8Result:
    """Calibrate, search and decide.

    Args:
        canonical: the model.
        data: its calibration and search parts are used, never the held-out part.
        settings: what the recipe fixes.
        progress: one stage for calibration passes and trials.
    """
    with (
        scratch_folder("search") as folder,
        progress.stage("quantizing: calibration", data.calibration_samples) as stage,
    ):
        observer = _Observer(data, progress, stage)
        scorer = _Scorer(canonical, _alternating(data.search, data.general), folder)
        quantizer = StaticInt8Quantizer(canonical.model, settings, observer, scorer, observer.on_trial)
        result = quantizer.run()
        stage.note = _summary(result)
    return result


def _alternating(first: Sequence[Feeds], second: Sequence[Feeds]) -> list[Feeds]:
    """Batches of both kinds in turn: whoever stops early has seen both."""
    return [feeds for pair in zip_longest(first, second) for feeds in pair if feeds is not None]


def _summary(result: StaticInt8Result) -> str:
    chosen = result.plan.settings
    layers = sum(item.quantized for item in result.plan.linears)
    bias = ", bias correction" if chosen["bias_correction"] else ""
    return (
        f"{layers} layers, alpha {chosen['alpha']:g}, {chosen['range_method']} ranges, {chosen['rounding']} rounding"
        f"{bias}"
    )


class _Observer:
    """Runs calibration passes through the cache; the first pass moves the bar."""

    def __init__(self, data: DataSets, progress: Progress, stage: Stage) -> None:
        self.data = data
        self.stage = stage
        self.cache = CalibrationCache(notify=progress.notice)
        self.passes = 0

    def __call__(self, model: ir.Model, tensors: Sequence[str], *, gram: bool = False) -> Statistics:
        self.passes += 1
        moves = self.passes == 1
        done = 0

        def advance(samples: int) -> None:
            nonlocal done
            if moves:
                self.stage.advance(samples - done)
            done = samples

        return calibrate(
            model,
            tensors,
            self.data.calibration,
            cache=self.cache,
            gram=gram,
            on_progress=advance,
            padding=self.data.padding,
        )

    def on_trial(self, trial: Trial) -> None:
        self.stage.note = f"{trial.setting}: held-out error {trial.error:.4f}"


class _Scorer:
    """Mean plus 95th percentile of the relative output error: the tail counts as much as the mean."""

    def __init__(self, canonical: Component, batches: Sequence[Feeds], folder: Path) -> None:
        self.canonical = canonical
        self.folder = folder
        self.batches: list[Feeds] = []
        self.expected: list[Outputs] = []
        session = self._session(canonical.model)
        held = 0
        for feeds in batches:
            if self.batches and held > SEARCH_OUTPUT_BYTES:
                break
            outputs = session.run(feeds)
            held += sum(array.nbytes for array in outputs.values())
            self.batches.append(feeds)
            self.expected.append(outputs)

    def __call__(
        self, equalized: ir.Model, plan: QuantizationPlan, weights: Mapping[str, StaticWeight]
    ) -> float:
        session = self._session(simulate(equalized, plan, weights))
        comparisons = [OutputComparison(spec) for spec in self.canonical.outputs]
        for feeds, expected in zip(self.batches, self.expected, strict=True):
            found = session.run(feeds)
            for comparison in comparisons:
                name = comparison.spec.name
                comparison.add(expected[name], found[name], Tokens.of_feeds(feeds).mask)
        scores = [comparison.metrics() for comparison in comparisons]
        return float(
            np.mean([score["relative_error_mean"] + score["relative_error_p95"] for score in scores])
        )

    def _session(self, model: ir.Model) -> VariantSession:
        import onnx_ir as ir

        path = self.folder / "trial.onnx"
        ir.save(model, path)
        return VariantSession(path, self.canonical)
