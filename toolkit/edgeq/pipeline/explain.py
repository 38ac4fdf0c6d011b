"""`edgeq explain`: the layers of a bundle that lose most, and why."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeq.bundle.reader import open_bundle
from edgeq.calibration import load_samples
from edgeq.errors import IntegrityError, ModelError, UnsupportedError
from edgeq.graph.read_blocks import read_block_weights
from edgeq.graph.read_static import read_static_weights
from edgeq.pipeline.forward.data import wanted_samples
from edgeq.pipeline.originals import take_in
from edgeq.pipeline.sensitivity import FILE_NAME, effects_from, sensitivity
from edgeq.progress import Progress, SilentProgress
from edgeq.quantize.layers import find_layers
from edgeq.quantize.plan import QuantizationPlan
from edgeq.report.words import FLOATS
from edgeq.targets import TARGETS, get_target
from edgeq.types import ONNX_RUNTIME

if TYPE_CHECKING:
    from edgeq.bundle.reader import Bundle
    from edgeq.graph.lazy_weights import LazyWeights
    from edgeq.pipeline.originals import Original
    from edgeq.quantize.sensitivity import LayerEffect

PLAN = "plan.json"
CALIBRATION_SAMPLES = 128


@dataclass(frozen=True, slots=True)
class ExplainRequest:
    """What to explain, and where the original and texts come from when the bundle has no measurement inside."""

    bundle: Path
    against: str | None = None
    data: str | None = None
    data_column: str | None = None
    force: bool = False
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Explanation:
    """Layers, most harmful first, and where the numbers come from.

    Attributes:
        effects: empty where nobody measured layers one by one.
        source: of the numbers.
        decisions: what the plan alone says, in graph order.
        next_command: what measures the layers, where nobody did; None where only an export can.
    """

    variant: str
    effects: Sequence[LayerEffect]
    source: str
    decisions: Sequence[Decision] = ()
    next_command: str | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """What became of a layer or table, and what is known without running anything."""

    name: str
    format: str
    known: str


def run_explain(request: ExplainRequest, progress: Progress | None = None) -> Explanation:
    """Read the bundle's own measurement, or measure against the original; without either, say what the plan knows.

    Raises:
        UnsupportedError: the bundle has no quantized layer, is without its plan, or `against` is set and no variant of
            it can be read.
        ModelError: `against` is not the model the bundle was made from.
        IntegrityError: the bundle's plan or measurement is malformed.
        EdgeqError: bundle, model or data cannot be used.
    """
    progress = progress or SilentProgress()
    with open_bundle(request.bundle, force=request.force) as bundle:
        variant = bundle.variants[0].id
        if request.against is None and (bundle.folder / FILE_NAME).is_file():
            return Explanation(variant, _recorded(bundle), "measured at export")
        plan = _plan(bundle)
        if request.against is None:
            command = f"edgeq explain {shlex.quote(str(request.bundle))} --against MODEL"
            return Explanation(
                variant, (), PLAN, tuple(decisions(plan)), command if _is_readable(bundle) else None
            )
        return _measure(bundle, plan, request, progress)


def decisions(plan: QuantizationPlan) -> Iterator[Decision]:
    """Every layer and table of a plan, and what it says of each."""
    weight_only = {item.name for item in plan.weights}
    for item in plan.linears:
        if item.quantized:
            low, high = item.input_range
            wider = f", scales {item.widening:.2f}x wider for exact sums" if item.widening > 1.005 else ""
            known = f"input {low:.3g} to {high:.3g}, {item.rounding} rounding{wider}"
            yield Decision(item.name, "int8-static", known)
        elif item.name not in weight_only:
            yield Decision(item.name, "float", item.reason)
    for weight in plan.weights:
        error = "" if weight.output_error is None else f", output error {weight.output_error:.2%}"
        known = f"{weight.method}, weight error {weight.weight_error:.2%}{error}"
        yield Decision(weight.name, f"int{weight.bits} weights", known)
    for table in plan.embeddings:
        if table.name not in weight_only:
            yield Decision(table.name, "int8 rows" if table.quantized else "float", table.reason)


def _plan(bundle: Bundle) -> QuantizationPlan:
    found = read_plan(bundle)
    if found is None and not _has_graphs(bundle):
        raise UnsupportedError(
            f"the files of target `{bundle.manifest.target}` are made of the checkpoint by a type that has a fixed "
            "format for each layer: there is no plan to explain",
            hint="export it with --sensitivity, which measures each tensor alone",
        )
    if found is None and _lacks_plan(bundle):
        raise UnsupportedError(
            f"{PLAN} was left out of this bundle, and it alone says what became of each layer",
            hint="explain the bundle it was packed from, or export it again without --slim",
        )
    if found is None:
        raise UnsupportedError("the bundle has no quantized layer, so there is no loss to explain")
    return found


def _lacks_plan(bundle: Bundle) -> bool:
    """Whether layers were quantized and the bundle does not say how: `pack` and `--slim` leave that out."""
    quantization = bundle.manifest.quantization
    is_quantized = quantization is not None and quantization.precision not in FLOATS
    return is_quantized and not (bundle.folder / PLAN).is_file()


def _has_graphs(bundle: Bundle) -> bool:
    """Whether the bundle was made from a graph, layer by layer."""
    target = bundle.manifest.target
    return target not in TARGETS or get_target(target).made_from == "graph"


def _is_readable(bundle: Bundle) -> bool:
    """Quantized weights are read back from ONNX graphs alone."""
    return any(variant.runtime == ONNX_RUNTIME for variant in bundle.variants)


def read_plan(bundle: Bundle) -> QuantizationPlan | None:
    """The plan that a bundle holds; None where nothing was quantized, or it was packed without.

    Raises:
        IntegrityError: it is malformed.
    """
    if not (bundle.folder / PLAN).is_file():
        return None
    with _reading(bundle, PLAN):
        return QuantizationPlan.from_json(json.loads(bundle.file(PLAN).read_text(encoding="utf-8")))


def _recorded(bundle: Bundle) -> list[LayerEffect]:
    with _reading(bundle, FILE_NAME):
        effects = effects_from(json.loads(bundle.file(FILE_NAME).read_text(encoding="utf-8")))
        if not effects:
            raise ValueError("it lists no layer")
    return effects


@contextmanager
def _reading(bundle: Bundle, name: str) -> Iterator[None]:
    """What is listed and hashed may still be malformed: whoever made the bundle wrote it."""
    try:
        yield
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise IntegrityError(
            f"`{name}` of `{bundle.path}` cannot be read: {type(error).__name__}: {error}"
        ) from error


def _measure(
    bundle: Bundle, plan: QuantizationPlan, request: ExplainRequest, progress: Progress
) -> Explanation:
    from edgeq.graph.passes.equalize import equalize
    from edgeq.graph.passes.sequence import edited

    # First: what cannot be read is refused before the original is loaded.
    weights = _stored_weights(bundle, plan)
    count = wanted_samples(CALIBRATION_SAMPLES)
    samples = load_samples(request.data, column=request.data_column, count=count, seed=request.seed)
    with progress.stage("loading the original"):
        original = take_in(str(request.against), bundle.manifest.source.task)
    _require_same(plan, original)
    data = original.feeder.divide(samples, CALIBRATION_SAMPLES)
    graph = edited(original.canonical.model, equalize(plan.equalizations))
    effects = sensitivity(original.head, graph, plan, weights, data, progress)
    return Explanation(bundle.variants[0].id, effects, f"measured on {samples.source}")


def _stored_weights(bundle: Bundle, plan: QuantizationPlan) -> LazyWeights:
    """Quantized layers as the first variant that holds them has them."""
    names = {item.name for item in plan.weights} | {item.name for item in plan.linears if item.quantized}
    for variant in bundle.variants:
        if variant.runtime == ONNX_RUNTIME:
            path = bundle.model_path(variant)
            found = read_static_weights(path) | read_block_weights(path, [item.name for item in plan.weights])
            if names <= set(found):
                return found.only(sorted(names))
    runtimes = ", ".join(dict.fromkeys(variant.runtime for variant in bundle.variants))
    raise UnsupportedError(
        f"no variant of this bundle ({runtimes}) holds its quantized layers in a form that can be read here",
        hint="edgeq export --sensitivity measures them when the bundle is made; explain shows that without --against",
    )


def _require_same(plan: QuantizationPlan, original: Original) -> None:
    known = {ref.name for ref in find_layers(original.canonical.model).refs}
    planned = [item.name for item in plan.linears] + [item.name for item in plan.weights]
    unknown = [name for name in planned if name not in known]
    if unknown:
        raise ModelError(
            f"`{original.exported.source.model}` has no layer `{unknown[0]}`, which the bundle's plan quantizes",
            hint="--against takes the model the bundle was made from (edgeq inspect names it)",
        )
