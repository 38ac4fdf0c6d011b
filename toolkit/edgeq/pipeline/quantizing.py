"""A recipe applied to one model: static int8, weight-only and float layers become one plan."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from edgeq.errors import UnsupportedError
from edgeq.graph.lazy_weights import LazyWeights
from edgeq.pipeline.int8 import quantize_int8
from edgeq.pipeline.palettes import palettize_weights
from edgeq.pipeline.stored import take_over
from edgeq.pipeline.weight_jobs import WeightJob, weight_jobs
from edgeq.pipeline.weight_only import quantize_weights
from edgeq.quantize.formats import Float, Float16, Palette, StaticInt8, Stored
from edgeq.quantize.layers import MIN_TABLE_ROWS, ModelLayers, find_layers
from edgeq.quantize.methods import Needs
from edgeq.quantize.plan import EmbeddingDecision, LinearDecision, QuantizationPlan
from edgeq.quantize.recipes import LayerSpec, Recipe
from edgeq.quantize.recipes.schema import StaticOptions
from edgeq.quantize.sites import find_sites
from edgeq.quantize.streaming.weight_store import QuantizedWeights
from edgeq.targets.target import LoweringInput
from edgeq.types import Feeds, FloatArray, Precision, SourceInfo

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeq.graph.component import Component
    from edgeq.graph.static_weight import StaticWeight
    from edgeq.pipeline.forward.data import DataSets
    from edgeq.pipeline.weight_only import QuantizedLayer
    from edgeq.progress import Progress
    from edgeq.quantize.checkpoint_codes import PackedWeights
    from edgeq.quantize.static_int8 import StaticInt8Result, Trial
    from edgeq.quantize.weight_only import QuantizedWeight, palette
    from edgeq.targets.target import LoweringInput


@dataclass(frozen=True, slots=True, eq=False)
class Quantized:
    """What a recipe came to for one model.

    Attributes:
        recipe: the recipe with every choice that was searched filled in: running it again finds the same.
        precision: its family, by the narrowest weights.
        plan: decisions per layer; None when everything stays in float.
        graph: the canonical graph, equalized where the plan says so.
        weights: codes of the weight-only layers, by initializer.
        static: codes of the static int8 layers, by initializer of `graph`.
        palettes: tables and indices of the palettized layers, by initializer.
        trials: what the static int8 search tried.
        clipping: share of the calibration values outside the chosen ranges, by tensor.
        is_calibrated: some decision looked at the calibration data.
    """

    recipe: Recipe
    precision: Precision
    plan: QuantizationPlan | None
    graph: ir.Model
    weights: Mapping[str, QuantizedWeight] = field(default_factory=dict)
    trials: Sequence[Trial] = ()
    clipping: Mapping[str, float] = field(default_factory=dict)
    is_calibrated: bool = False
    palettes: Mapping[str, palette.Palette] = field(default_factory=dict)
    static: Mapping[str, StaticWeight] = field(default_factory=dict)

    def lowering_input(
        self, canonical: Component, *, calibration: Iterable[Feeds] = (), about: SourceInfo | None = None
    ) -> LoweringInput:
        """What a target is given of it.

        Args:
            canonical: the model that was quantized.
            calibration: feeds that show which values it reaches.
            about: where it comes from.
        """
        return LoweringInput(
            canonical,
            self.plan,
            self.graph,
            self.weights,
            self.precision,
            calibration,
            about,
            self.palettes,
            self.static,
        )

    def rounded_weights(self) -> LazyWeights:
        """Linear layers as their codes stand for, `[in, out]`, by layer name; no tables of int8 rows."""
        assert self.plan is not None
        found: dict[str, Callable[[], FloatArray]] = {
            item.name: partial(self._rounded, item.initializer) for item in self.plan.weights
        }
        for site in find_sites(self.graph).linears:
            if site.weight in self.static and site.name not in found:
                found[site.name] = self.static[site.weight].dequantize
        return LazyWeights(found)

    def _rounded(self, initializer: str) -> FloatArray:
        if initializer in self.palettes:
            return self.palettes[initializer].dense().T
        return self.weights[initializer].dequantize()


def quantize_model(
    canonical: Component,
    data: DataSets,
    recipe: Recipe,
    progress: Progress,
    packed: PackedWeights | None = None,
    is_lossy: bool = False,
) -> Quantized:
    """Resolve the recipe, calibrate, decide, and compute the weight-only codes.

    Args:
        canonical: the model.
        data: calibration and held-out parts.
        recipe: what becomes of each layer.
        progress: a stage each for what is done.
        packed: codes that came with the checkpoint, for layers whose format is `stored`.
        is_lossy: the checkpoint has weights that ONNX cannot hold, and they may be requantized.

    Raises:
        ConfigError: a rule of the recipe matches nothing in this model.
        DataError: calibration data the methods cannot use.
        UnsupportedError: the recipe quantizes, and no layer of this model would be.
    """
    layers = find_layers(canonical.model)
    specs = recipe.resolve(layers.refs)
    taken: tuple[QuantizedLayer, ...] = ()
    stored_jobs = weight_jobs(layers, specs, Stored)
    if stored_jobs and packed is not None:
        over = take_over(canonical.model, layers, specs, stored_jobs, packed, is_lossy, progress)
        specs, taken = dict(over.specs), over.layers
    precision = family(specs.values(), taken)
    if precision in (Precision.FP32, Precision.FP16) and len({spec.format for spec in specs.values()}) <= 1:
        _require_layers(recipe, [])
        return Quantized(recipe, precision, None, canonical.model)
    static = _static_part(canonical, data, recipe, layers, specs, progress)
    graph = canonical.model if static is None else static.equalized
    rows = row_tables(layers, specs)
    jobs = [job for job in weight_jobs(layers, specs) if job.name not in rows or job.name in layers.tied]
    done = quantize_weights(graph, jobs, data, progress) if jobs else []
    palette_jobs = weight_jobs(layers, specs, Palette)
    palettes = palettize_weights(graph, palette_jobs, data, progress) if palette_jobs else []
    plan = replace(
        _base_plan(static, layers, specs),
        embeddings=_tables(layers, specs, rows),
        weights=(
            *(layer.decision for layer in (*taken, *done)),
            *(layer.decision for layer in palettes),
        ),
        fp16=_fp16(layers, specs),
    )
    linears = {site.name for site in layers.sites.linears}
    _require_layers(
        recipe,
        [
            *(item.name for item in plan.linears if item.quantized),
            *(item.name for item in plan.weights if item.name in linears or item.name in layers.tied),
        ],
    )
    return Quantized(
        recipe=_settled(recipe, static),
        precision=precision,
        plan=plan,
        graph=graph,
        weights=QuantizedWeights({layer.decision.initializer: layer.codes for layer in (*taken, *done)}),
        trials=() if static is None else static.trials,
        clipping={} if static is None else static.clipping,
        is_calibrated=static is not None or _looks_at_inputs([*jobs, *palette_jobs]),
        palettes={layer.decision.initializer: layer.palette for layer in palettes},
        static={} if static is None else static.weights,
    )


def _require_layers(recipe: Recipe, quantized: Sequence[str]) -> None:
    """A bundle does not bear the name of a precision that none of its layers has.

    Raises:
        UnsupportedError: the recipe quantizes, and no layer is.
    """
    if recipe.default.storage.is_quantized and not quantized:
        raise UnsupportedError(
            f"recipe `{recipe.name}` quantizes linear layers, and this graph has none that it could: a layer is a "
            "MatMul or Gemm whose weight is stored as float",
            hint="export the checkpoint that the file was made from; --precision fp32 takes the file as it is",
        )


def family(specs: Iterable[LayerSpec], taken: Sequence[QuantizedLayer] = ()) -> Precision:
    """The family of resolved specs: by the narrowest weights, which decide the default gate.

    Args:
        specs: of the layers.
        taken: layers whose weights came quantized.
    """
    found = [spec.storage for spec in specs]
    if any(layer.decision.bits < 8 for layer in taken):
        return Precision.INT4
    if any(storage.is_quantized and (storage.bits or 8) < 8 for storage in found):
        return Precision.INT4
    if any(storage.is_quantized for storage in found):
        return Precision.INT8
    return Precision.FP16 if any(isinstance(storage, Float16) for storage in found) else Precision.FP32


def _static_part(
    canonical: Component,
    data: DataSets,
    recipe: Recipe,
    layers: ModelLayers,
    specs: Mapping[str, LayerSpec],
    progress: Progress,
) -> StaticInt8Result | None:
    linears = [site.name for site in layers.sites.linears]
    if not any(isinstance(specs[name].storage, StaticInt8) for name in linears):
        return None
    return quantize_int8(canonical, data, recipe.static_settings(dict(specs), layers.refs), progress)


def _settled(recipe: Recipe, static: StaticInt8Result | None) -> Recipe:
    if static is None:
        return recipe
    chosen = static.plan.settings
    options = StaticOptions(**{item.name: chosen[item.name] for item in fields(StaticOptions)})
    return replace(recipe, static_int8=options)


def _base_plan(
    static: StaticInt8Result | None, layers: ModelLayers, specs: Mapping[str, LayerSpec]
) -> QuantizationPlan:
    """Decisions about linear layers: static int8 ones, and why the others are not."""
    if static is None:
        settings = {"method": "weight-only"}
        linears = tuple(
            _float_layer(site.name, site.shape[1], specs)
            for site in layers.sites.linears
            if isinstance(specs[site.name].storage, Float)
        )
        return QuantizationPlan((), linears, (), settings)
    linears = tuple(
        item if item.quantized else replace(item, reason=_reason(specs[item.name]))
        for item in static.plan.linears
    )
    return replace(static.plan, linears=linears)


def _float_layer(name: str, channels: int, specs: Mapping[str, LayerSpec]) -> LinearDecision:
    empty = np.zeros(channels, np.float32)
    return LinearDecision(name, False, _reason(specs[name]), (0.0, 0.0), empty, empty)


def _reason(spec: LayerSpec) -> str:
    return f"{spec.format} in the recipe"


def row_tables(layers: ModelLayers, specs: Mapping[str, LayerSpec]) -> frozenset[str]:
    """Tables stored as int8 with one scale per row: the form that every target has."""
    return frozenset(
        site.name
        for site in layers.sites.embeddings
        if site.shape[0] >= MIN_TABLE_ROWS and specs[site.name].storage.is_row_int8
    )


def _tables(
    layers: ModelLayers, specs: Mapping[str, LayerSpec], rows: frozenset[str]
) -> tuple[EmbeddingDecision, ...]:
    return tuple(
        EmbeddingDecision(
            site.name, site.name in rows, "quantized" if site.name in rows else _reason(specs[site.name])
        )
        for site in layers.sites.embeddings
        if site.shape[0] >= MIN_TABLE_ROWS
    )


def _fp16(layers: ModelLayers, specs: Mapping[str, LayerSpec]) -> tuple[str, ...]:
    return tuple(
        dict.fromkeys(
            layers.initializers[name] for name, spec in specs.items() if isinstance(spec.storage, Float16)
        )
    )


def _looks_at_inputs(jobs: Sequence[WeightJob]) -> bool:
    return any(job.inputs and job.method.needs > Needs.NOTHING for job in jobs)
