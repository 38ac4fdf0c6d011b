"""Core ML: an ML program for iPhones, iPads and Macs, written on any desktop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from edgeq.errors import MissingExtraError, UnsupportedError
from edgeq.graph.component import SEQUENCE
from edgeq.targets.coreml.decisions import ComputeDtype, PaletteWeight, check_platform
from edgeq.targets.coreml.info import package_info
from edgeq.targets.coreml.interpreter.program import read_package
from edgeq.targets.coreml.needs import TOKEN_INPUTS, oldest_ios, recipe_decisions
from edgeq.targets.coreml.plan import PlannedGraph, from_quantized_weight, from_static_plan
from edgeq.targets.coreml.session import PackageSession, is_constant
from edgeq.targets.target import Lowered, LoweringInput, LoweringOptions, Session, VariantSpec
from edgeq.types import Precision, TensorSpec

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeq.quantize.recipes import Recipe
    from edgeq.runtime.adapter import HasSignature
    from edgeq.targets.coreml.hazards import Hazard
    from edgeq.targets.coreml.plan import PlannedGraph

DEFAULT_IOS = 17
RUNTIME = "coreml"
UNITS = "all compute units"
"""Core ML itself places each operator on the CPU, the GPU or the Neural Engine."""
PACKAGE = "Model.mlpackage"
SHOWN_HAZARDS = 3


@dataclass(frozen=True, slots=True)
class CoreMLTarget:
    """Core ML packages with a fixed batch of one and one or several sequence lengths."""

    name: str = "coreml"
    title: str = "Core ML on iOS 16 and newer: an .mlpackage, static or enumerated shapes"
    precisions: tuple[Precision, ...] = (Precision.INT8, Precision.INT4, Precision.FP16, Precision.FP32)
    own_runtimes: tuple[str, ...] = (RUNTIME,)
    option_names: tuple[str, ...] = ("ios",)
    made_from: Literal["graph", "checkpoint"] = "graph"
    own_precisions: Mapping[str, str] = field(default_factory=dict)

    def variants(self, recipe: Recipe) -> tuple[VariantSpec, ...]:
        """One variant; Core ML places its operators itself."""
        return (VariantSpec(f"coreml-{recipe.name}", "coreml", recipe.name, RUNTIME, UNITS, "arm64"),)

    def check(self, recipe: Recipe, options: LoweringOptions) -> None:
        """Refuse an iOS that is too old for the recipe or for several lengths.

        Raises:
            ConfigError: an iOS version edgeq does not know.
            UnsupportedError: names what needs which version.
            MissingExtraError: coremltools is not installed.
        """
        weights, static = recipe_decisions(recipe)
        if options.ios is not None:
            check_platform(
                options.ios,
                weights,
                static_activations=static,
                seq_lens=options.lengths,
                inputs=TOKEN_INPUTS,
            )
        if find_spec("coremltools") is None:
            raise MissingExtraError("the Core ML target", "coreml")

    def check_graph(self, graph: ir.Model) -> None:
        """Refuse operators without a lowering.

        Raises:
            UnsupportedError: names them.
        """
        from edgeq.targets.coreml.operators import check_operators

        check_operators(graph)

    def lower(
        self, spec: VariantSpec, source: LoweringInput, options: LoweringOptions, folder: Path
    ) -> Lowered:
        """Carry out the plan, keep what float16 would overflow in float32, and write the package."""
        from edgeq.targets.coreml.lowering import lower_to_mil

        planned = _planned(source)
        precision: ComputeDtype = "fp32" if source.precision is Precision.FP32 else "fp16"
        hazards = _hazards(planned, source) if precision == "fp16" else ()
        needed = oldest_ios(planned, options.lengths)
        package = lower_to_mil(
            planned.model,
            folder / PACKAGE,
            precision=precision,
            ios=options.ios or max(DEFAULT_IOS, needed),
            seq_lens=options.lengths,
            weights=planned.weights,
            activations=planned.activations,
            fp32_nodes=frozenset(hazard.node for hazard in hazards),
            info=package_info(source, spec),
        )
        found = read_package(package.path)
        return Lowered(
            model=package.path,
            inputs=tuple(_declared(item, options.lengths, "int32") for item in source.canonical.inputs),
            outputs=tuple(_declared(item, options.lengths, "float32") for item in source.canonical.outputs),
            opset=None,
            placement={
                "operations": sum(not is_constant(operation) for operation in found.operations),
                "int8_inputs": len(planned.activations),
                "compressed_weights": len(planned.weights),
                "float32_nodes": [hazard.node for hazard in hazards],
                "sequence_lengths": list(options.lengths),
                "level": "decided by Core ML on the device",
            },
            requirements={"min_ios": package.ios},
            details=(*_hazard_notes(hazards), *package.notes),
        )

    def open(self, spec: VariantSpec, model: Path, signature: HasSignature, *, pad_id: int = 0) -> Session:
        """The interpreter; on a Mac Core ML itself."""
        return PackageSession(model, signature, pad_id=pad_id)


def _planned(source: LoweringInput) -> PlannedGraph:
    """Static int8 layers and weight-only codes of one plan, as Core ML decisions."""
    graph = source.graph()
    if source.plan is None:
        if source.precision not in (Precision.FP32, Precision.FP16):
            raise UnsupportedError(
                f"the Core ML lowering got precision {source.precision} without a plan for it"
            )
        return PlannedGraph(graph, {}, {})
    static = from_static_plan(graph, source.plan, source.static)
    codes = {name: from_quantized_weight(weight) for name, weight in source.weights.items()}
    palettes = {name: PaletteWeight.of(palette) for name, palette in source.palettes.items()}
    return replace(static, weights={**static.weights, **codes, **palettes})


def _hazards(planned: PlannedGraph, source: LoweringInput) -> tuple[Hazard, ...]:
    from edgeq.targets.coreml.hazards import find_hazards, measure_ranges

    return find_hazards(planned.model, measure_ranges(planned.model, source.calibration))


def _hazard_notes(hazards: tuple[Hazard, ...]) -> tuple[str, ...]:
    if not hazards:
        return ()
    shown = "; ".join(
        f"`{hazard.node}` ({hazard.reason}, {hazard.magnitude:.3g} on calibration data)"
        for hazard in hazards[:SHOWN_HAZARDS]
    )
    more = f"; and {len(hazards) - SHOWN_HAZARDS} more" if len(hazards) > SHOWN_HAZARDS else ""
    return (f"{len(hazards)} nodes compute in float32, where float16 could overflow: {shown}{more}",)


def _declared(spec: TensorSpec, lengths: tuple[int, ...], dtype: str) -> TensorSpec:
    """As Core ML declares it: a batch of one; several lengths stay the free dimension they are enumerated for."""
    sequence = lengths[0] if len(lengths) == 1 else SEQUENCE
    dims = tuple(sequence if dim == SEQUENCE else dim for dim in spec.shape[1:])
    return replace(spec, dtype=dtype, shape=(1, *dims))


TARGET = CoreMLTarget()
