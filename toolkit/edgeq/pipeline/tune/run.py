"""`edgeq tune`: the smallest model that keeps a metric, or the best within a size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, cast

import numpy as np

from edgeq.calibration import load_samples
from edgeq.errors import GateError, UnsupportedError, UsageError
from edgeq.exporters import inspect_model, sample_model_path
from edgeq.metrics import LOWER_IS_BETTER
from edgeq.pipeline.originals import Original, take_in
from edgeq.pipeline.quantizing import quantize_model
from edgeq.pipeline.tune.budget import SIZE, SPEARMAN_DROP
from edgeq.pipeline.tune.candidates import CandidateStore, format_of
from edgeq.pipeline.tune.data import TuneData, divide_texts, wanted_texts
from edgeq.pipeline.tune.metrics import Judge, judges_of, metric_of
from edgeq.pipeline.tune.recipe import recipe_of
from edgeq.pipeline.tune.result import Evaluated, TuneRequest, TuneResult
from edgeq.progress import Progress, SilentProgress
from edgeq.quantize.bootstrap import rows_needed
from edgeq.quantize.formats import Float32
from edgeq.quantize.recipes import LayerSpec, Recipe, load_recipe
from edgeq.quantize.recipes.schema import RecipeExport
from edgeq.quantize.search import Point, Unit, best_within, demotions, first_accepted, front
from edgeq.runtime.session import Signature, VariantSession
from edgeq.scratch import scratch_folder
from edgeq.targets import get_target
from edgeq.targets.target import LoweringOptions
from edgeq.tasks.entry import Mode
from edgeq.types import ONNX_RUNTIME, Array

if TYPE_CHECKING:
    from edgeq.targets.target import GraphTarget, Target, VariantSpec

REPAIRS = 3
"""Demotions tried in vain before the search stops."""
CURVE = 4
"""Points of the front that are measured for the table, beside those the search looked at."""
REFERENCES = {Mode.FORWARD: ("int4", "w4a8"), Mode.AUTOREGRESSIVE: ("int4", "w4a8", "q4_k_m")}
"""Fixed recipes that are measured beside the front, and chosen where they are better."""
SIZE_SLACK = 4096
"""Bytes a predicted size may be off: names and node attributes differ between choices."""


def run_tune(request: TuneRequest, progress: Progress | None = None) -> TuneResult:
    """Search.

    Raises:
        GateError: no choice meets the budget; the message has the best one and its distance.
        EdgeqError: model, data or target cannot be used.
    """
    progress = progress or SilentProgress()
    _check(request)
    target = get_target(request.target)
    spec = _tunable(target)
    model = request.model or str(sample_model_path())
    facts = inspect_model(model, task=request.task).require_supported()
    texts = load_samples(
        request.calib,
        column=request.calib_column,
        count=wanted_texts(request.calib_samples),
        seed=request.seed,
    )
    for notice in texts.notices:
        progress.notice(notice)
    with progress.stage("exporting the model"):
        original = take_in(model, facts.task)
    data = divide_texts(texts, original.feeder, request.calib_samples)
    return _Tuner(request, original, data, target, spec, progress).run()


def _check(request: TuneRequest) -> None:
    if request.budget.metric == SPEARMAN_DROP and request.data is None:
        raise UsageError(
            "spearman_drop needs labelled pairs", hint="--data FILE.tsv with lines of score, text, text"
        )
    if request.budget.metric != SPEARMAN_DROP and request.data is not None:
        raise UsageError(f"--data has labelled pairs, and the budget `{request.budget}` does not use them")


def _tunable(target: Target) -> VariantSpec:
    """The variant of a target that takes every format of the search, and that can be run here."""
    for spec in target.variants(load_recipe("int4")):
        if spec.refusal is None and spec.runtime == ONNX_RUNTIME:
            return spec
    raise UnsupportedError(
        f"target `{target.name}` has no variant with mixed weight formats that runs here",
        hint="tune with --target cpu or android, then try the recipe there",
    )


class _Tuner:
    """State of one search."""

    def __init__(
        self,
        request: TuneRequest,
        original: Original,
        data: TuneData,
        target: Target,
        spec: VariantSpec,
        progress: Progress,
    ) -> None:
        self.request, self.budget, self.progress = request, request.budget, progress
        self.original, self.target, self.spec = original, target, spec
        self.metric = metric_of(request.budget, original.head)
        self.store = CandidateStore(original.canonical, original.head, data.sets, progress)
        labelled = request.data, request.seed, progress.notice
        self.judge, self.reporter = judges_of(self.metric, original, data, *labelled)
        self.data = data
        self.done: dict[tuple[tuple[str, LayerSpec], ...], Evaluated] = {}
        self.fixed: list[Evaluated] = []
        self.notes: list[str] = []
        self.units: list[Unit] = []

    def run(self) -> TuneResult:
        self.units = self.store.search_units()
        points = front(self.units)
        with self.progress.stage("searching along the front") as stage:
            self._references()
            by_size = self.budget.metric == SIZE
            chosen = self._best_in_size(points) if by_size else self._smallest_that_keeps(points)
            self._draw_curve(points)
            stage.note = f"{len(self.done)} points measured, {chosen.size_bytes / 1e6:.2f} MB chosen"
        with self.progress.stage("measuring the choice on data that decided nothing"):
            report = self.reporter.estimate(
                self._rows(self.reporter, "report", chosen.specs), self.request.seed
            )
        curve = sorted(self.done.values(), key=lambda item: (item.size_bytes, item.label))
        return TuneResult(
            self._recipe(chosen.specs, self._summary(chosen)), chosen, report, tuple(curve), self.metric,
            self.budget, tuple(self.notes), self._losses(chosen.point),
        )  # fmt: skip

    def evaluate(self, point: Point) -> Evaluated:
        """A point of the search, judged on the decision data; each once."""
        specs: dict[str, LayerSpec] = {}
        for name, form in point.formats.items():
            unit = self.store.units[name]
            specs |= dict.fromkeys(unit.layers, unit.formats()[form])
        return self._evaluate("", point, specs)

    def _evaluate(self, label: str, point: Point, specs: Mapping[str, LayerSpec]) -> Evaluated:
        key = tuple((ref.name, specs[ref.name]) for ref in self.store.layers.refs if ref.name in specs)
        if key not in self.done:
            rows = self._rows(self.judge, "decision", dict(key))
            estimate = self.judge.estimate(rows[1:], self.request.seed)
            self.done[key] = Evaluated(label, point, dict(key), int(rows.flat[0]), estimate)
        return self.done[key]

    def _best_in_size(self, points: Sequence[Point]) -> Evaluated:
        smallest = self.evaluate(points[0])
        overhead = smallest.size_bytes - points[0].size_bytes
        limit = int(self.budget.threshold) - overhead - SIZE_SLACK
        found = best_within(self.units, points, limit)
        if found is None:
            raise GateError(
                f"no recipe meets {self.budget}: the smallest found has {smallest.size_bytes / 1e6:.2f} MB, "
                f"{(smallest.size_bytes - self.budget.threshold) / 1e6:.2f} MB too many "
                f"({self.metric} {smallest.estimate.value:.5g})",
                hint=f"--budget size={np.ceil(smallest.size_bytes / 1e5) / 10:g}MB",
            )
        inside = [point for point in points if point.size_bytes <= limit]
        tried = [self.evaluate(point) for point in (found, inside[-1])]
        return self._better([*tried, *self.fixed])

    def _better(self, tried: Sequence[Evaluated]) -> Evaluated:
        kept = [item for item in tried if item.size_bytes <= self.budget.threshold]
        return (min if self.metric in LOWER_IS_BETTER else max)(kept, key=lambda item: item.estimate.value)

    def _smallest_that_keeps(self, points: Sequence[Point]) -> Evaluated:
        index = first_accepted(points, lambda point: self.budget.is_certain(self.evaluate(point).estimate))
        if index is None:
            raise self._unmet(self.evaluate(points[-1]))
        chosen = self._repair(self.evaluate(points[index]))
        kept = [item for item in self.fixed if self.budget.is_certain(item.estimate)]
        chosen = min([chosen, *kept], key=lambda item: item.size_bytes)
        self._note_undecided(chosen)
        return chosen

    def _repair(self, chosen: Evaluated) -> Evaluated:
        """Make single units smaller while the budget still holds."""
        failures = 0
        while failures < REPAIRS:
            for point in demotions(self.units, chosen.point):
                tried = self.evaluate(point)
                if self.budget.is_certain(tried.estimate) and tried.size_bytes < chosen.size_bytes:
                    chosen = tried
                    break
                failures += 1
                if failures >= REPAIRS:
                    return chosen
            else:
                return chosen
        return chosen

    def _unmet(self, best: Evaluated) -> GateError:
        estimate = best.estimate
        bound = estimate.low if self.budget.op == ">=" else estimate.high
        found = f"the best found has {self.metric} {estimate.value:.6g} at {best.size_bytes / 1e6:.2f} MB"
        if self.budget.met(estimate.value):
            need = rows_needed(estimate, self.budget.threshold)
            return GateError(
                f"{estimate.n} rows are too few to decide {self.budget}: {found}, but its 95 % bound is {bound:.6g}",
                hint=f"about {need} rows would decide; give more texts with --calib (or pairs with --data)",
            )
        distance = self.budget.distance(estimate.value)
        return GateError(
            f"no recipe meets {self.budget}: {found}, {distance:.3g} away (95 % bound {bound:.6g})",
            hint="loosen the budget, or use --precision fp32",
        )

    def _note_undecided(self, chosen: Evaluated) -> None:
        """Smaller points that meet the budget by their estimate, but not with certainty."""
        smaller = [
            item
            for item in self.done.values()
            if item.size_bytes < chosen.size_bytes and self.budget.met(item.estimate.value)
        ]
        if smaller:
            item = min(smaller, key=lambda found: found.size_bytes)
            need = rows_needed(item.estimate, self.budget.threshold)
            self.notes.append(
                f"{item.size_bytes / 1e6:.2f} MB may do as well ({self.metric} {item.estimate.value:.5g}), but "
                f"{item.estimate.n} rows are too few to tell; about {need} would decide"
            )

    def _draw_curve(self, points: Sequence[Point]) -> None:
        for index in np.unique(np.linspace(0, len(points) - 1, CURVE).round().astype(int)):
            self.evaluate(points[int(index)])

    def _references(self) -> None:
        """Measure fixed recipes as they ship."""
        for name in REFERENCES[self.original.head.entry.mode]:
            specs = load_recipe(name).resolve(self.store.layers.refs)
            formats = {unit.name: format_of(specs[unit.layers[0]]) for unit in self.store.units.values()}
            quantized = {
                layer: spec for layer, spec in specs.items() if not isinstance(spec.storage, Float32)
            }
            self.fixed.append(self._evaluate(f"recipe {name}", Point(formats, 0, np.nan), quantized))

    def _rows(self, judge: Judge, part: str, specs: Mapping[str, LayerSpec]) -> Array:
        """Size and rows of a choice, remembered between runs; `[1 + rows, ...]`, the first row is the size."""
        key = {
            "part": part,
            "specs": {name: asdict(spec) for name, spec in specs.items()},
            "budget": self.metric,
            "seed": self.request.seed,
            "target": self.target.name,
            "rows": judge.digest(),
        }

        def compute() -> Array:
            size, rows = self._run(judge, specs)
            first = np.full((1, *rows.shape[1:]), size, np.float64)
            return np.concatenate([first, rows])

        rows = self.store.cache.array(key, compute)
        return rows if part == "decision" else rows[1:]

    def _run(self, judge: Judge, specs: Mapping[str, LayerSpec]) -> tuple[int, Array]:
        """Quantize as an export would, layer after layer, and run the file."""
        canonical = self.original.canonical
        found = quantize_model(canonical, self.data.sets, self._recipe(specs, ""), SilentProgress())
        source = found.lowering_input(canonical)
        with scratch_folder("tune") as folder:
            lowered = cast("GraphTarget", self.target).lower(self.spec, source, LoweringOptions(), folder)
            signature = Signature(lowered.inputs, lowered.outputs)
            pad_id, level = self.original.preprocessor.pad_id, self.spec.level
            session = VariantSession(lowered.model, signature, pad_id=pad_id, level=level)
            # A large graph has its weights in a file of their own.
            size = sum(file.stat().st_size for file in folder.glob(f"{lowered.model.name}*"))
            return size, np.asarray(judge.rows(session.run), np.float64)

    def _summary(self, chosen: Evaluated) -> str:
        value = chosen.estimate.value
        found = f"{chosen.size_bytes / 1e6:.2f} MB, {self.metric} {value:.5g}"
        return f"Found by edgeq tune for {self.budget}: {found}."

    def _recipe(self, specs: Mapping[str, LayerSpec], summary: str) -> Recipe:
        others = [ref.name for ref in self.store.layers.refs if ref.name not in specs]
        options = RecipeExport(None, self.data.sets.calibration_samples, self.request.seed)
        return recipe_of(specs, others, summary, options)

    def _losses(self, point: Point) -> dict[str, float]:
        """Predicted, of the units whose format is a candidate (a fixed recipe may have others)."""
        found = {
            unit.name: option.loss
            for unit in self.units
            for option in unit.options
            if option.format == point.formats[unit.name]
        }
        return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))
