"""A bundle's report with what one machine measured: a file of its own, so that the bundle's bytes stay the same."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgeq.bundle.reader import open_bundle
from edgeq.errors import UsageError
from edgeq.files import atomic_write_text, check_output_file
from edgeq.pipeline.forward.measure import BENCH_TOKENS, ORIGINAL_FP32
from edgeq.report.html import REPORT_FILE, report
from edgeq.report.measured import Accuracy, EncoderTime, Times, encoder_times, with_accuracy, with_times
from edgeq.runtime.host import cpu_name, host_architecture

if TYPE_CHECKING:
    from edgeq.pipeline.bench.timer import BenchReport
    from edgeq.pipeline.plan import TargetResult
    from edgeq.pipeline.validation.report import ValidationReport

SUFFIXES = (".html", ".htm")


def check_page(page: Path, bundles: Sequence[Path] = ()) -> None:
    """Find out before the work that a page cannot be written.

    Args:
        page: where it goes; a page that is there is replaced.
        bundles: folders that would not be what they list with another file in them.

    Raises:
        UsageError: it is no `.html` file, or inside a bundle.
        OutputError: its folder is not there or cannot be written, or it is a folder itself.
    """
    if page.suffix.lower() not in SUFFIXES:
        raise UsageError(f"a report goes to a .html file, got `{page}`")
    folder = page.absolute().parent.resolve()
    inside = next((bundle for bundle in bundles if folder.is_relative_to(bundle.absolute().resolve())), None)
    if inside is not None:
        raise UsageError(
            f"`{page}` is inside the bundle `{inside}`, whose files are listed with their hashes",
            hint=f"--report {inside.name}-{REPORT_FILE}",
        )
    check_output_file(page, "--report")


def check_accuracy_page(page: Path, bundle: Path, labels: Path | None) -> None:
    """As `check_page`; there is no accuracy without labelled texts.

    Raises:
        UsageError: there are none.
    """
    if labels is None:
        raise UsageError(
            "--report of validate shows accuracy, which needs labelled texts: --labels FILE",
            hint=f"edgeq bench {bundle} --report {page} writes the report with times, unless the bundle "
            "was packed without golden cases or runs on phones alone",
        )
    check_page(page, [bundle])


def export_pages(page: Path, targets: Sequence[str]) -> dict[str, Path]:
    """Where the page of each target goes: several share no file."""
    if len(targets) == 1:
        return {targets[0]: page}
    return {target: page.with_name(f"{page.stem}-{target}{page.suffix}") for target in targets}


def write_export_pages(results: Sequence[TargetResult], page: Path) -> list[Path]:
    """The report of every bundle, with the times that its export took beside float32."""
    pages = export_pages(page, [result.target for result in results])
    for result in results:
        times = _export_times(result)
        text = result.page if times is None else with_times(result.page, times)
        atomic_write_text(pages[result.target], text)
    return list(pages.values())


def _export_times(result: TargetResult) -> Times | None:
    """None where nothing ran in the target's own runtime."""
    variants = result.bundle.manifest.variants
    timed = [(variant.id, timing) for variant in variants if (timing := result.measured[variant.id].timing)]
    if not timed:
        return None
    tokens = _timed_tokens(result)
    rows = [EncoderTime(name, 1, tokens, item.p50_ms, item.p95_ms, item.ratio) for name, item in timed]
    base = timed[0][1]
    fp32 = EncoderTime(f"{ORIGINAL_FP32}, by the ratio", 1, tokens, base.p50_ms / base.ratio, None, 1.0)
    return encoder_times(_machine(None), ORIGINAL_FP32, [*rows, fp32], variants[0].id)


def _timed_tokens(result: TargetResult) -> int:
    manifest = result.bundle.manifest
    limits = [
        spec.shape[1] for variant in manifest.variants for spec in variant.inputs if len(spec.shape) == 2
    ]
    most = [manifest.text_processor.max_length] if manifest.text_processor else []
    return min([BENCH_TOKENS, *most, *(limit for limit in limits if isinstance(limit, int))])


def write_bench_page(
    bundle: Path, page: Path, found: BenchReport, *, threads: int | None, force: bool
) -> None:
    """The report of a bundle, with what `edgeq bench` measured."""
    text, preferred = _report_of(bundle, force=force)
    atomic_write_text(page, with_times(text, found.times(_machine(threads), preferred)))


def write_accuracy_page(bundle: Path, page: Path, found: ValidationReport, *, force: bool) -> None:
    """The report of a bundle, with what `edgeq validate --labels` found.

    Raises:
        UsageError: no variant was run on labelled texts.
    """
    rows = [
        Accuracy(
            found.title(variant),
            variant.labelled.name,
            variant.labelled.value.n,
            variant.labelled.metrics(),
            variant.labelled.verdict,
        )
        for variant in found.variants
        if variant.labelled is not None
    ]
    if not rows:
        raise UsageError("no variant was run on labelled texts: there is no accuracy to report")
    atomic_write_text(page, with_accuracy(_report_of(bundle, force=force)[0], rows))


def _report_of(path: Path, *, force: bool) -> tuple[str, str]:
    """A bundle's own page, and its preferred variant; of bundles of before that have none, what their manifest says."""
    with open_bundle(path, force=force) as bundle:
        own = bundle.folder / REPORT_FILE
        text = own.read_text(encoding="utf-8") if own.is_file() else report(bundle.manifest)
        return text, bundle.variants[0].id


def _machine(threads: int | None) -> str:
    ran = "" if threads is None else f", {threads} thread" + ("s" if threads > 1 else "")
    return f"{cpu_name()} ({host_architecture()}{ran})"
