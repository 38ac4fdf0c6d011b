"""What makes a bundle's contents of one loaded model: a maker per way to run models and to write their files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol, cast

from edgeq.bundle.manifest import Calibration
from edgeq.pipeline.write import Quantizing
from edgeq.quantize.coverage import coverage
from edgeq.targets import get_target
from edgeq.targets.target import GraphTarget, Lowered, LoweringInput, LoweringOptions, VariantSpec

if TYPE_CHECKING:
    from edgeq.bundle.writer import BundleWriter
    from edgeq.calibration import CalibrationData
    from edgeq.exporters.exported_model import ModelFacts
    from edgeq.pipeline.forward.data import DataSets
    from edgeq.pipeline.plan import ExportPlan, TargetResult
    from edgeq.pipeline.quantizing import Quantized
    from edgeq.pipeline.request import ExportRequest
    from edgeq.pipeline.write import BundleParts
    from edgeq.processors.text import TextPreprocessor
    from edgeq.progress import Progress
    from edgeq.quantize.coverage import Coverage
    from edgeq.quantize.recipes import Recipe
    from edgeq.quantize.sensitivity import LayerEffect
    from edgeq.targets.target import Target


class Maker(Protocol):
    """One model, loaded, with its data divided, and quantized where its files are made of a graph."""

    def make(
        self, target: str, writer: BundleWriter, scratch: Path, done: Sequence[TargetResult]
    ) -> BundleParts:
        """Write a target's model files, run them, and record what the bundle will promise.

        Args:
            target: its name.
            writer: of the bundle; files beside the models that a kind of model has are written too.
            scratch: a folder for what is gone afterwards.
            done: bundles of the same export that are finished.

        Raises:
            EdgeqError: a file cannot be made, or computes no numbers.
        """


@dataclass(frozen=True, slots=True)
class Way:
    """How models that are run in one way become bundles.

    Attributes:
        plan: the recipe and the variants, of those that the targets offer; refuses what cannot be made.
        counts: how many samples will judge, and how many calibrate.
        open: loads the model, again where files are made in another way; each target with its maker, in the order in
            which they are to be made.
    """

    plan: Callable[
        [ExportRequest, ModelFacts, Mapping[str, Target], Mapping[str, tuple[VariantSpec, ...]], Progress],
        tuple[Recipe, Mapping[str, tuple[VariantSpec, ...]]],
    ]
    counts: Callable[[CalibrationData, int], tuple[int, int]]
    open: Callable[[ExportPlan, Progress], Iterator[tuple[str, Maker]]]


def lower_variants(
    target: str,
    specs: Sequence[VariantSpec],
    source: LoweringInput,
    options: LoweringOptions,
    writer: BundleWriter,
    progress: Progress,
) -> dict[str, tuple[VariantSpec, Lowered]]:
    """Every variant of a target that takes graphs, in its folder; what the target has to say is said."""
    written = {}
    with progress.stage(f"lowering for {target}", len(specs)) as stage:
        for spec in specs:
            folder = writer.path(f"model/{spec.id}/model.onnx").parent
            lowered = cast("GraphTarget", get_target(target)).lower(spec, source, options, folder)
            say_notes(spec, lowered, progress)
            written[spec.id] = (spec, lowered)
            stage.advance()
    return written


def say_notes(spec: VariantSpec, lowered: Lowered, progress: Progress) -> None:
    """What whoever exports should know of a variant."""
    for note in lowered.notes:
        progress.notice(f"{spec.id}: {note}")


def quantizing_of(
    plan: ExportPlan,
    quantized: Quantized,
    data: DataSets,
    preprocessor: TextPreprocessor,
    effects: Sequence[LayerEffect] = (),
) -> Quantizing | None:
    """What a bundle says of how a graph was quantized; None for floating point.

    Args:
        plan: of the export.
        quantized: the graph.
        data: its calibration part.
        preprocessor: of the model.
        effects: of each layer, where they were measured.
    """
    if quantized.plan is None:
        return None
    name, trials = plan.request.recipe.name, quantized.trials
    if not quantized.is_calibrated:
        return Quantizing(name, quantized.plan, trials=trials, effects=effects)
    return Quantizing(
        name,
        quantized.plan,
        calibration_of(plan, data.calibration_samples),
        trials,
        coverage_of(data, preprocessor, quantized.clipping),
        effects,
    )


def calibration_of(plan: ExportPlan, samples: int) -> Calibration:
    """The data that calibrated."""
    return Calibration(plan.data.source, plan.data.sha256, samples, plan.request.seed)


def coverage_of(
    data: DataSets, preprocessor: TextPreprocessor, clipping: Mapping[str, float] = MappingProxyType({})
) -> Coverage | None:
    """Of the texts that calibrated; None for ready tensors.

    Args:
        data: its calibration part.
        preprocessor: of the model.
        clipping: share of values outside the chosen range, by tensor, where ranges were chosen.
    """
    if not data.texts:
        return None
    return replace(coverage(data.texts, preprocessor), clipping=clipping)
