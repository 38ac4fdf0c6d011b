"""report.html: one page that shows what a bundle is worth and why; no scripts, no network, reproducible bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgeq.files import atomic_write_text
from edgeq.report.charts import Spread, histogram, spreads
from edgeq.report.examples import Recorded, examples_section
from edgeq.report.html_quantization import calibration_section, layers_section, search_section
from edgeq.report.markup import Child, Html, Section, bullets, el, join, page, section, table
from edgeq.report.measured import accuracy_section, latency_section
from edgeq.report.overview import summary_section, tiles
from edgeq.report.style import CSS
from edgeq.report.words import (
    CPU,
    VERIFICATION_MEANINGS,
    caveats,
    gate_text,
    metric_title,
    metric_value,
    placement_lines,
    requirement_lines,
    shape_text,
    source_title,
    task_title,
)
from edgeq.types import Verification

if TYPE_CHECKING:
    from edgeq.bundle.manifest import Manifest, Metric
    from edgeq.quantize.coverage import Coverage
    from edgeq.quantize.plan import QuantizationPlan
    from edgeq.quantize.static_int8 import Trial

REPORT_FILE = "report.html"
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
    recorded: Recorded | None = None,
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
        recorded: what examples are taken from.
    """
    content = report(
        manifest,
        plan,
        trials,
        coverage,
        fp32_bytes=fp32_bytes,
        cosines=cosines,
        recorded=recorded,
    )
    atomic_write_text(folder / REPORT_FILE, content)


def report(
    manifest: Manifest,
    plan: QuantizationPlan | None = None,
    trials: Sequence[Trial] = (),
    coverage: Coverage | None = None,
    *,
    fp32_bytes: int | None = None,
    cosines: Cosines | None = None,
    recorded: Recorded | None = None,
) -> str:
    """The page; the same arguments give the same text."""
    sections = [
        summary_section(manifest, fp32_bytes),
        None if recorded is None else examples_section(manifest, recorded),
        accuracy_section(manifest),
        latency_section(),
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
    return page(title, CSS, _header(manifest, title, links, fp32_bytes), *(section(*item) for item in found))


def _header(manifest: Manifest, title: str, links: Html, fp32_bytes: int | None) -> Html:
    source = manifest.source
    passed = manifest.status == "passed"
    pill = el(
        "span", "gates passed" if passed else "below its gate", class_=f"pill {'good' if passed else 'bad'}"
    )
    does = task_title(manifest)
    count = f"{source.parameters / 1e6:.1f} million parameters"
    sub = f"{does}. {source.architecture}, {count}, from {source_title(source)}."
    return el(
        "header", el("h1", title, " ", pill), el("p", sub, class_="sub"), tiles(manifest, fp32_bytes), links
    )


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
    """Metrics down, variants across; below, on how many samples, how and where each column was measured."""
    found = [metric for metric in manifest.metrics if metric.output == output]
    series = list(dict.fromkeys(map(_series, found)))
    names = list(dict.fromkeys(metric.metric for metric in found))
    values = {(metric.metric, _series(metric)): metric_value(metric.metric, metric.value) for metric in found}
    rows: list[list[Child]] = [
        [metric_title(name), *(values.get((name, key), "") for key in series)] for name in names
    ]
    about = [
        f"{variant}: {samples} samples, {level}, on {environment}"
        for variant, samples, level, environment in series
    ]
    return join(
        [
            table(["", *(f"{key[0]}>" for key in series)], rows, "facts"),
            el("div", bullets(about), class_="muted"),
        ]
    )


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
    note = (
        "A partition is a piece of the graph that an accelerator computes in one go; between two of them the CPU takes "
        "over, which costs time."
    )
    if any(
        variant.execution_provider != CPU and "partitions" in variant.placement
        for variant in manifest.variants
    ):
        parts.insert(0, el("p", note, class_="muted"))
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
