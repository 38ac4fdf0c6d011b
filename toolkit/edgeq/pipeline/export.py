"""`edgeq export`: one model, one plan, a verified bundle per target; the same road for every task."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgeq.bundle.archive import write_archive
from edgeq.bundle.manifest import Status
from edgeq.bundle.writer import BundleWriter
from edgeq.pipeline.pack import Slimming, write_slim
from edgeq.pipeline.plan import ExportPlan, TargetResult, archive_path
from edgeq.pipeline.planning import plan_export
from edgeq.pipeline.stored import compared_with, say_growth
from edgeq.pipeline.write import write_bundle
from edgeq.progress import Progress, SilentProgress
from edgeq.report.html import REPORT_FILE
from edgeq.scratch import scratch_beside, scratch_folder

if TYPE_CHECKING:
    from edgeq.bundle.reader import Bundle
    from edgeq.pipeline.make import Maker
    from edgeq.pipeline.request import ExportRequest


def run_export(request: ExportRequest, progress: Progress | None = None) -> list[TargetResult]:
    """Do all of it. A bundle below its gate is kept, marked failed; the caller looks at `failed_gates`.

    What takes disk space on the way is beside the first output, and gone at the end.

    Raises:
        EdgeqError: see `plan_export`; nothing half-written is left.
    """
    progress = progress or SilentProgress()
    plan = plan_export(request, progress)
    from edgeq.pipeline.ways import way_of

    with scratch_beside(next(iter(plan.destinations.values()))):
        results: dict[str, TargetResult] = {}
        for name, maker in way_of(plan.facts.task).open(plan, progress):
            results[name] = _export(plan, name, maker, list(results.values()), progress)
            del maker  # The next one may load the model in another form.
    return [results[name] for name in plan.destinations]


def _export(
    plan: ExportPlan, target: str, maker: Maker, done: list[TargetResult], progress: Progress
) -> TargetResult:
    destination = plan.destinations[target]
    with BundleWriter(destination, plan.request.force) as writer, scratch_folder("fp32") as scratch:
        parts = maker.make(target, writer, scratch, done)
        with progress.stage(f"writing {destination.name}"):
            bundle = write_bundle(writer, parts)
    bundle, archive, page = finished(bundle, plan.request)
    say_growth(plan.facts, plan.request.recipe, bundle.variants[0].size_bytes, progress)
    against = compared_with(plan.facts)
    return TargetResult(target, bundle, parts.measured, parts.fp32_bytes, archive, against, page)


def finished(bundle: Bundle, request: ExportRequest) -> tuple[Bundle, Path | None, str]:
    """The bundle as it is shipped, as one file beside its folder where the request wants that, and its whole report.

    One that failed its gate keeps everything that tells why.
    """
    # A slim bundle has none, and `--report` wants it all the same.
    page = bundle.file(REPORT_FILE).read_text(encoding="utf-8")
    if request.slim and bundle.manifest.status is Status.PASSED:
        slimming = Slimming(drop_goldens=True, drop_report=True)
        bundle = write_slim(bundle, bundle.path, slimming, force=True).bundle
    if not request.archive:
        return bundle, None, page
    return bundle, write_archive(bundle.path, archive_path(bundle.path), force=request.force), page
