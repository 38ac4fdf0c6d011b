"""report.html: one page that shows what a bundle is worth and why; no scripts, no network, reproducible bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgeq.files import atomic_write_text
from edgeq.metrics import LOWER_IS_BETTER
from edgeq.report.charts import Spread, bar, histogram, spreads
from edgeq.report.html_quantization import calibration_section, layers_section, search_section
from edgeq.report.markup import Child, Html, bullets, el, join, page, section, table
from edgeq.report.style import CSS
from edgeq.report.words import (
    CPU,
    VERIFICATION_MEANINGS,
    caveats,
    gate_text,
    megabytes,
    metric_title,
    metric_value,
    placement_lines,
    placement_summary,
    requirement_lines,
    runtime_title,
    shape_text,
    source_title,
    task_title,
)
from edgeq.types import Verification

if TYPE_CHECKING:
    from edgeq.bundle.manifest import Manifest, Metric, Variant
    from edgeq.quantize.coverage import Coverage
    from edgeq.quantize.plan import QuantizationPlan
    from edgeq.quantize.static_int8 import Trial

Cosines = Mapping[str, Mapping[str, Sequence[float]]]
"""Cosine to the original of every held-out row, by variant and output."""


def write_report(
    folder: Path,
    manifest: Manifest,
    plan: QuantizationPlan | None = None,
    trials: Sequence[Trial] = (),
    coverage: Coverage | None = None,
    *,
    fp32_bytes: int | None = None,
    cosines: Cosines | None = None,
) -> None:
    """Write the report into a bundle's folder.

    Args:
        folder: the bundle's.
        manifest: everything measured.
        plan: decisions for static int8; None where there are none.
        trials: settings that were tried, in order.
        coverage: of the calibration texts.
        fp32_bytes: size of the float32 graph that sizes are compared with.
        cosines: see `Cosines`; without them there is no distribution.
    """
    content = report(manifest, plan, trials, coverage, fp32_bytes=fp32_bytes, cosines=cosines)
    atomic_write_text(folder / "report.html", content)


def report(
    manifest: Manifest,
    plan: QuantizationPlan | None = None,
    trials: Sequence[Trial] = (),
    coverage: Coverage | None = None,
    *,
    fp32_bytes: int | None = None,
    cosines: Cosines | None = None,
) -> str:
    """The page; the same arguments give the same text."""
    sections = [
        _summary(manifest, fp32_bytes),
        _fidelity(manifest, cosines or {}),
        _gates(manifest),
        search_section(plan, trials),
        calibration_section(manifest, coverage),
        layers_section(manifest, plan),
        _placement(manifest),
        _contract(manifest),
        _limits(manifest),
        _provenance(manifest),
    ]
    found = [item for item in sections if item is not None]
    title = f"{manifest.name} for {manifest.target}"
    links = el("nav", *(el("a", name, href=f"#{anchor}") for anchor, name, _ in found))
    return page(title, CSS, _header(manifest, title, links), *(section(*item) for item in found))


def _header(manifest: Manifest, title: str, links: Html) -> Html:
    source = manifest.source
    passed = manifest.status == "passed"
    pill = el(
        "span", "gates passed" if passed else "below its gate", class_=f"pill {'good' if passed else 'bad'}"
    )
    does = task_title(manifest)
    count = f"{source.parameters / 1e6:.1f} million parameters"
    sub = f"{does}. {source.architecture}, {count}, from {source_title(source)}."
    return el("header", el("h1", title, " ", pill), el("p", sub, class_="sub"), _tiles(manifest), links)


KIND_TILES = ("decision_agreement", "score_error_mean", "rank_correlation", "span_agreement")
"""Of kinds whose answers have no top-1, or whose outputs have no direction."""


def _tiles(manifest: Manifest) -> Html:
    """The preferred variant at a glance."""
    first = manifest.variants[0]
    tiles = [(megabytes(first.size_bytes), f"{first.id}, the preferred variant")]
    for name in ("top1_agreement", "cosine_mean", "cosine_min", *KIND_TILES):
        found = _worst(manifest, first.id, name)
        if found is not None:
            tiles.append((metric_value(name, found.value), f"{metric_title(name)}, {found.n} held-out rows"))
    tiles += [
        (f"{v.placement['partitions']}", f"predicted partitions of {v.id}") for v in _accelerated(manifest)
    ]
    return el(
        "div",
        *(el("div", el("b", value), el("span", what), class_="tile") for value, what in tiles),
        class_="tiles",
    )


def _accelerated(manifest: Manifest) -> list[Variant]:
    return [
        v
        for v in manifest.variants
        if v.execution_provider != CPU and isinstance(v.placement.get("partitions"), int)
    ]


def _worst(manifest: Manifest, variant: str, name: str) -> Metric | None:
    """A metric over all outputs, the worst."""
    found = [metric for metric in manifest.metrics if (metric.variant, metric.metric) == (variant, name)]
    worst = max if name in LOWER_IS_BETTER else min
    return worst(found, key=lambda metric: metric.value, default=None)


Section = tuple[str, str, Child]
"""Anchor, title, content."""


SUMMARY_METRICS = {
    "top1_agreement": "top-1",
    "cosine_mean": "cosine mean",
    "cosine_p01": "1st pct.",
    "cosine_min": "lowest",
    "kl_p99": "KL, 99th pct.",
    "score_error_mean": "score error",
    "score_error_p99": "99th pct.",
    "rank_correlation": "rank corr.",
    "probability_error_mean": "prob. error",
    "probability_error_p99": "99th pct.",
    "decision_agreement": "decisions",
    "span_agreement": "spans",
    "batch_invariance_min": "batching",
}
"""Columns of the summary, where anything has them; `batching` is the lowest cosine of a row alone and in a batch."""


def _summary(manifest: Manifest, fp32_bytes: int | None) -> Section:
    present = {metric.metric for metric in manifest.metrics}
    names = [name for name in SUMMARY_METRICS if name in present]
    full = max(fp32_bytes or 0, *(variant.size_bytes for variant in manifest.variants))
    rows = [_summary_row(manifest, variant, names, full, fp32_bytes) for variant in manifest.variants]
    if fp32_bytes is not None:
        blank: list[Child] = ["" for _ in names]
        size = [megabytes(fp32_bytes), bar(fp32_bytes, full), "1.00"]
        rows.append([el("span", "float32", class_="id"), "for comparison", *size, *blank, "", ""])
    titles = [f"{SUMMARY_METRICS[name]}>" for name in names]
    columns = ["variant", "runs on", "size>", "", "of float32>", *titles, "placement", "verified"]
    note = "Variants are in order of preference: an app takes the first one whose requirements it meets."
    return "summary", "Summary", join([el("p", note, class_="muted"), table(columns, rows)])


def _summary_row(
    manifest: Manifest, variant: Variant, names: Sequence[str], full: int, fp32_bytes: int | None
) -> list[Child]:
    found = [_worst(manifest, variant.id, name) for name in names]
    values = ["" if metric is None else metric_value(metric.metric, metric.value) for metric in found]
    ratio = f"{variant.size_bytes / fp32_bytes:.2f}" if fp32_bytes else ""
    levels = dict.fromkeys(metric.verification for metric in manifest.metrics if metric.variant == variant.id)
    return [
        el("b", variant.id, class_="id"),
        runtime_title(variant),
        megabytes(variant.size_bytes),
        bar(variant.size_bytes, full, chosen=True),
        ratio,
        *values,
        placement_summary(variant),
        ", ".join(levels),
    ]


def _fidelity(manifest: Manifest, cosines: Cosines) -> Section | None:
    if not manifest.metrics:
        return None
    outputs = list(dict.fromkeys(metric.output for metric in manifest.metrics))
    parts = [part for output in outputs for part in _output_parts(manifest, output, cosines)]
    used = [
        level for level in Verification if any(metric.verification is level for metric in manifest.metrics)
    ]
    legend = bullets(f"{level}: {VERIFICATION_MEANINGS[level]}." for level in used)
    intro = "Every number compares a variant with the original model on held-out samples that nothing was fitted to."
    return "fidelity", "Fidelity", join([el("p", intro), *parts, legend])


def _output_parts(manifest: Manifest, output: str | None, cosines: Cosines) -> list[Html]:
    if output is None:
        return [el("h3", "The model as a whole"), _numbers(manifest, None)]
    return [
        *_output_charts(manifest, output, cosines),
        el("h3", "Numbers, ", el("code", output)),
        _numbers(manifest, output),
    ]


def _numbers(manifest: Manifest, output: str | None) -> Html:
    """Metrics down, variants across; each column says on how many samples, how and where it was measured."""
    found = [metric for metric in manifest.metrics if metric.output == output]
    series = list(dict.fromkeys(map(_series, found)))
    names = list(dict.fromkeys(metric.metric for metric in found))
    values = {(metric.metric, _series(metric)): metric_value(metric.metric, metric.value) for metric in found}
    rows: list[list[Child]] = [
        [metric_title(name), *(values.get((name, key), "") for key in series)] for name in names
    ]
    about = zip(
        ("samples", "verification", "where"), zip(*(key[1:] for key in series), strict=True), strict=True
    )
    rows += [[title, *(el("span", fact, class_="muted") for fact in facts)] for title, facts in about]
    return table(["", *(f"{key[0]}>" for key in series)], rows)


def _series(metric: Metric) -> tuple[str, int, str, str]:
    return (metric.variant, metric.n, str(metric.verification), metric.environment)


def _output_charts(manifest: Manifest, output: str, cosines: Cosines) -> list[Html]:
    rows = [
        row for variant in manifest.variants if (row := _spread(manifest, variant.id, output)) is not None
    ]
    if not rows:
        return []
    heading = el("h3", "Cosine to the original, output ", el("code", output))
    caption = "Dot: mean. Ticks: lowest and 1st percentile. Dashed: gates on the mean or the lowest."
    figure = el("figure", spreads(rows, 1.0, f"cosine of {output}"), el("figcaption", caption))
    return [heading, figure, *_distributions(output, cosines)]


def _spread(manifest: Manifest, variant: str, output: str) -> Spread | None:
    found = {m.metric: m.value for m in manifest.metrics if (m.variant, m.output) == (variant, output)}
    if not {"cosine_min", "cosine_p01", "cosine_mean"} <= set(found):
        return None
    gates = tuple(
        gate.threshold
        for gate in manifest.gates
        if (gate.variant, gate.output) == (variant, output) and gate.metric.startswith("cosine")
    )
    return Spread(variant, found["cosine_min"], found["cosine_p01"], found["cosine_mean"], gates)


def _distributions(output: str, cosines: Cosines) -> list[Html]:
    given = {variant: by_output[output] for variant, by_output in cosines.items() if by_output.get(output)}
    if not given:
        return []
    low = min(min(values) for values in given.values())
    low = min(low, 1 - 1e-6)
    figures = [
        el(
            "figure",
            histogram(values, low, 1.0, f"distribution of {variant}"),
            el("figcaption", _counted(variant, values)),
        )
        for variant, values in given.items()
    ]
    return [el("h3", "Distribution over the held-out rows"), *figures]


def _counted(variant: str, values: Sequence[float]) -> str:
    return f"{variant}: {len(values)} rows, lowest {min(values):.6f}"


def _gates(manifest: Manifest) -> Section | None:
    if not manifest.gates:
        return None
    rows = []
    for gate in manifest.gates:
        bound, verdict = gate_text(gate)
        tone = {True: "good", False: "bad", None: "warn"}[gate.passed]
        value = "" if gate.value is None else metric_value(gate.metric, gate.value)
        pill = el("span", verdict, class_=f"pill {tone}")
        what = metric_title(gate.metric)
        rows.append(
            [pill, el("code", gate.variant), el("code", gate.output), what, bound, value, gate.derived_from]
        )
    columns = ["", "variant", "output", "metric", "required>", "value>", "where the bound comes from"]
    return "gates", "Gates", table(columns, rows)


def _placement(manifest: Manifest) -> Section | None:
    found = [(variant.id, placement_lines(variant)) for variant in manifest.variants]
    parts = [part for name, lines in found if lines for part in (el("h3", el("code", name)), bullets(lines))]
    return ("placement", "Placement", join(parts)) if parts else None


def _contract(manifest: Manifest) -> Section:
    rows = [
        [el("code", variant.id), way, el("code", spec.name), spec.dtype, shape_text(spec), spec.role]
        for variant in manifest.variants
        for way, specs in (("in", variant.inputs), ("out", variant.outputs))
        for spec in specs
    ]
    wants = [
        [el("code", variant.id), what, value]
        for variant in manifest.variants
        for what, value in requirement_lines(variant)
    ]
    tensors = table(["variant", "", "name", "dtype", "shape", "role"], rows)
    needs = [el("h3", "Requirements"), table(["variant", "what", "value"], wants)] if wants else []
    return "contract", "Inputs, outputs, requirements", join([tensors, *needs])


def _limits(manifest: Manifest) -> Section:
    return "limits", "Limits", bullets(caveats(manifest))


def _provenance(manifest: Manifest) -> Section:
    source = manifest.source
    facts = [
        ("model", source_title(source)),
        ("revision", source.revision or "none recorded; the hashes identify it"),
        ("licence", source.license or "not stated by the source"),
        *((name, version) for name, version in manifest.created_by.items()),
        ("bundle format", manifest.format.version),
    ]
    rows = [[name, el("code", value)] for name, value in facts]
    files = [[el("code", item.path), el("code", item.sha256)] for item in source.files]
    hashes = el(
        "details", el("summary", f"{len(files)} files of the source"), table(["file", "SHA-256"], files)
    )
    return "provenance", "Provenance", join([table(["what", "value"], rows), hashes if files else None])
