"""`--dry-run` of a model that is a graph already: taken in and lowered in float, to refuse what an export does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

from edgeq.exporters import load_model
from edgeq.exporters.source import is_onnx_file
from edgeq.pipeline.choices import all_lengths, static_length
from edgeq.scratch import scratch_folder
from edgeq.targets import get_target
from edgeq.targets.target import GraphTarget, LoweringInput, LoweringOptions, VariantSpec, check_graph

if TYPE_CHECKING:
    from edgeq.exporters.exported_model import ExportedModel
    from edgeq.pipeline.plan import ExportPlan
    from edgeq.progress import Progress


def rehearse(plan: ExportPlan, progress: Progress) -> None:
    """Take an ONNX file in and compare it; ask every target whether it takes the graph. Other models: nothing.

    A checkpoint's config says what will become of it. Of a file that another tool wrote only the attempt does.

    Raises:
        EdgeqError: what the export would stop at.
    """
    request = plan.request
    if not is_onnx_file(plan.facts.model):
        return
    with progress.stage("taking the file in"):
        exported = load_model(str(request.model), task=request.task, seq_len=request.seq_len)
    options = LoweringOptions(static_length(request, exported), all_lengths(request, exported), request.ios)
    for name in plan.destinations:
        check_graph(get_target(name), exported.canonical.model)
    refuse_partitions(exported, plan.variants, options)


def refuse_partitions(
    exported: ExportedModel, variants: Mapping[str, tuple[VariantSpec, ...]], options: LoweringOptions
) -> None:
    """Lower variants that an accelerator must take whole, in float, before anything is calibrated.

    Args:
        exported: the model.
        variants: those that will be written, by target.
        options: their lengths.

    Raises:
        UnsupportedError: names the operators that would cut it.
    """
    for name, specs in variants.items():
        target = get_target(name)
        with scratch_folder("partitions") as folder:
            for spec in specs:
                if spec.one_partition:
                    cast("GraphTarget", target).lower(
                        spec, LoweringInput(exported.canonical, about=exported.source), options, folder
                    )
